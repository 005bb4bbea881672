package config

import (
	"bytes"
	"cmp"
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/breakwater-iot/breakwater/daemon/internal/humantime"
	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm"
)

// Names of certificates in [cert_issuance.est.urls].
const (
	IdentityCert = "device-id"
	EdgeCACert   = "aziot-edged-ca"
	LocalCACert  = "local-ca"
)

// table decodes a table that the library has decoded as a map, because a text may
// stand in its place.
func (v *validator) table(key string, m map[string]any, into any) {
	text, err := toml.Marshal(m)
	if err == nil {
		err = toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(into)
	}
	var strict *toml.StrictMissingError
	var dec *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		for i := range strict.Errors {
			v.bad(key+"."+strings.Join(strict.Errors[i].Key(), "."), "unknown key")
		}
	case errors.As(err, &dec):
		v.bad(key+"."+strings.Join(dec.Key(), "."), "value of the wrong type")
	case err != nil:
		v.bad(key, "not a table of the right kind")
	}
}

// key checks the URI of a key; it returns the path of one in a file.
func (v *validator) key(key string, k KeyURI) KeyURI {
	if k == "" {
		return ""
	}
	if k.InTPM() {
		v.c.TPM.Needed = true
		switch handle, err := tpm.ParseURI(string(k)); {
		case err != nil:
			v.bad(key, "%v", err)
		case int64(handle) == int64(tpm.AuthKeyHandle(0))+v.c.TPM.AuthKeyIndex:
			v.bad(key, "is the place for the key of the provisioning service: see tpm.auth_key_index")
		}
		return k
	}
	if !k.OnToken() {
		return KeyURI(v.file(key, string(k)))
	}
	if v.c.Keys.LibPath == "" {
		v.bad(key, "a pkcs11: URI needs [aziot_keys] pkcs11_lib_path")
	}
	return k
}

// issuance checks the tables that others refer to: they come first.
func (v *validator) issuance() {
	c := v.c
	if c.Keys.BaseSlot != "" && !c.Keys.BaseSlot.OnToken() {
		v.bad("aziot_keys.pkcs11_base_slot", "must be a pkcs11: URI")
	}
	c.Keys.LibPath = v.file("aziot_keys.pkcs11_lib_path", c.Keys.LibPath)
	if c.Keys.BaseSlot != "" && c.Keys.LibPath == "" {
		v.bad("aziot_keys.pkcs11_base_slot", "needs pkcs11_lib_path")
	}
	if c.Keys.BaseSlot != "" && c.Keys.TPMNewKeys {
		v.bad("aziot_keys.tpm_new_keys", "excludes pkcs11_base_slot")
	}
	c.TPM.Needed = c.Keys.TPMNewKeys || c.Keys.TPMMasterKeys
	v.tpm()

	const est = "cert_issuance.est"
	e := &c.Issuance.EST
	for i, f := range e.TrustedCerts {
		e.TrustedCerts[i] = v.file(est+".trusted_certs", f)
	}
	v.estAuth(est+".auth", &e.Auth)
	for name, u := range e.URLs {
		v.url(est+".urls."+name, u)
	}
	v.renewal(est+".identity_auto_renew", &e.IdentityAutoRenew)
}

// localCA checks the CA that issues on the device: files, or how it is issued itself.
func (v *validator) localCA() {
	const table = "cert_issuance.local_ca"
	ca := &v.c.Issuance.LocalCA
	switch cert := ca.CertValue.(type) {
	case map[string]any:
		v.issuedLocalCA(table, cert)
	case nil, string:
		file, _ := cert.(string)
		if (file == "") != (ca.Key == "") {
			v.bad(table, "cert and pk are needed together")
		}
		ca.Cert, ca.Key = v.file(table+".cert", file), v.key(table+".pk", ca.Key)
	default:
		v.bad(table+".cert", "must be a file:// URI or a table")
	}
	ca.CertValue = nil // a table may hold a password as plain text
}

func (v *validator) issuedLocalCA(table string, cert map[string]any) {
	ca, key := &v.c.Issuance.LocalCA, table+".cert"
	if ca.Key != "" {
		v.bad(table+".pk", "excludes a table in cert: preloaded_keys.%s says where the key of an issued local CA is", LocalCACert)
	}
	ca.Key = v.preloadedKey(LocalCACert)
	ca.Issue.AutoRenew = defaultRenew()
	v.table(key, cert, &ca.Issue)
	if ca.Issue.CommonName == "" && ca.Issue.Subject["CN"] == "" {
		ca.Issue.CommonName = "local CA " + v.c.Hostname
	}
	if m := ca.Issue.Method; m != EST && m != SelfSigned {
		v.bad(key+".method", "must be \"est\" or \"self_signed\": the local CA cannot issue itself")
		return
	}
	v.issue(key, &ca.Issue, LocalCACert)
}

func (v *validator) tpm() {
	if err := tpm.CheckTCTI(v.c.TPM.TCTI); err != nil {
		v.bad("tpm.tcti", "%v", err)
	}
	if err := tpm.CheckIndex(v.c.TPM.AuthKeyIndex); err != nil {
		v.bad("tpm.auth_key_index", "%v", err)
	}
}

func (v *validator) url(key, s string) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		v.bad(key, "must be an https:// URL")
	}
}

func (v *validator) estAuth(table string, a *ESTAuth) {
	if (a.Username == "") != (a.Password == "") {
		v.bad(table, "username and password are needed together")
	}
	if (a.Cert == "") != (a.CertPK == "") {
		v.bad(table, "identity_cert and identity_pk are needed together")
	}
	if (a.BootstrapCert == "") != (a.BootstrapPK == "") {
		v.bad(table, "bootstrap_identity_cert and bootstrap_identity_pk are needed together")
	}
	if a.Cert != "" && a.BootstrapCert != "" {
		v.bad(table+".bootstrap_identity_cert", "has no meaning with identity_cert")
	}
	a.Cert, a.BootstrapCert = v.file(table+".identity_cert", a.Cert), v.file(table+".bootstrap_identity_cert", a.BootstrapCert)
	a.CertPK, a.BootstrapPK = v.key(table+".identity_pk", a.CertPK), v.key(table+".bootstrap_identity_pk", a.BootstrapPK)
}

// issue checks how a certificate is obtained; name is its own in the EST URLs.
func (v *validator) issue(table string, i *Issue, name string) {
	switch i.Method {
	case EST:
		est := v.c.Issuance.EST
		if i.URL == "" {
			i.URL = est.URLs[name]
		}
		if i.URL == "" {
			i.URL = est.URLs["default"]
		}
		if i.URL == "" {
			v.bad(table+".url", "missing, and [cert_issuance.est.urls] has no default")
		} else {
			v.url(table+".url", i.URL)
		}
		v.estAuth(table, &i.ESTAuth)
		own := estIdentity + "-" + name
		if i.ESTAuth == (ESTAuth{}) {
			i.ESTAuth, own = est.Auth, estIdentity
		}
		if i.BootstrapCert != "" {
			i.CertPK = v.preloadedKey(own)
		}
		if i.ESTAuth == (ESTAuth{}) {
			v.bad(table, "method \"est\" needs credentials, here or in [cert_issuance.est.auth]")
		}
	case LocalCA:
		if ca := v.c.Issuance.LocalCA; ca.Cert == "" && ca.Issue.Method == "" {
			v.bad(table+".method", "\"local_ca\" needs [cert_issuance.local_ca]")
		}
	case SelfSigned:
	default:
		v.bad(table+".method", "must be \"est\", \"local_ca\" or \"self_signed\"")
	}
	if i.Method != EST && (i.URL != "" || i.ESTAuth != (ESTAuth{})) {
		v.bad(table+".url", "url and credentials are only for method \"est\"")
	}
	v.nameAndDays(table, i)
	v.renewal(table+".auto_renew", &i.AutoRenew)
}

// nameAndDays checks what a certificate is to be like.
func (v *validator) nameAndDays(table string, i *Issue) {
	if i.ExpiryDays < 0 || i.ExpiryDays > 36500 {
		v.bad(table+".expiry_days", "must be from 1 to 36500")
	}
	for k := range i.Subject {
		if !strings.Contains(" CN O OU L ST C ", " "+k+" ") {
			v.bad(table+".subject", "%q is none of CN, O, OU, L, ST and C", k)
		}
	}
	if i.CommonName != "" && i.Subject["CN"] != "" {
		v.bad(table+".common_name", "excludes CN in subject")
	}
}

func (v *validator) renewal(table string, r *AutoRenew) {
	var ok bool
	r.Policy.RotateKey = r.RotateKey
	if r.Policy.Threshold, ok = period(r.ThresholdText); !ok {
		v.bad(table+".threshold", "must be a period such as \"80%%\", \"30 min\" or \"10 day\"")
	}
	if r.Policy.Retry, ok = period(r.RetryText); !ok {
		v.bad(table+".retry", "must be a period such as \"4%%\", \"30 min\" or \"1 day\"")
	}
}

// period reads a share of a life or a time.
func period(s string) (renewal.Period, bool) {
	if share, ok := strings.CutSuffix(strings.TrimSpace(s), "%"); ok {
		n, err := strconv.ParseFloat(strings.TrimSpace(share), 64)
		return renewal.Period{Share: n / 100}, err == nil && n > 0 && n < 100
	}
	d, err := humantime.Parse(s)
	return renewal.Period{Time: d}, err == nil && d > 0
}

// edgeCA checks the edge CA's table: files, or an issuer, or neither.
func (v *validator) edgeCA() {
	const table = "edge_ca"
	const days = table + ".auto_generated_edge_ca_expiry_days"
	ca := &v.c.EdgeCA
	if (ca.KeyPair.Cert == "") != (ca.Key == "") {
		v.bad(table, "cert and pk are needed together")
	}
	byID := !v.set(table) && v.edgeCAByID()
	issuedIn := table
	if byID {
		issuedIn = "cert_issuance.certs." + EdgeCACert
	}
	preloaded := ca.KeyPair.Cert != ""
	if preloaded && v.set(days) {
		v.bad(days, "has no meaning with cert and pk")
	}
	if preloaded && ca.Method != "" {
		v.bad(table+".method", "excludes cert and pk")
	}
	if ca.Days < 1 || ca.Days > 36500 {
		v.bad(days, "must be from 1 to 36500")
	}
	if !byID {
		ca.KeyPair.Cert, ca.Key = v.file(table+".cert", ca.KeyPair.Cert), v.key(table+".pk", ca.Key)
	}
	if !preloaded && ca.Key == "" {
		ca.Key = v.preloadedKey(EdgeCACert)
	}
	if ca.Method == "" && !preloaded {
		ca.Method = SelfSigned
	}
	if !preloaded {
		v.issue(issuedIn, &ca.Issue, EdgeCACert)
	}
	if ca.ExpiryDays == 0 {
		ca.ExpiryDays = ca.Days
	}
	if name := cmp.Or(ca.CommonName, ca.Subject["CN"]); name != "" && v.c.Hostname == name {
		v.bad("hostname", "must differ from the name of the edge CA")
	}
}

// edgeCAByID takes the edge CA from the tables that are by id, if they have it.
func (v *validator) edgeCAByID() bool {
	ca := &v.c.EdgeCA
	_, key := v.c.PreloadedKeys[EdgeCACert]
	_, cert := v.c.PreloadedCerts[EdgeCACert].(string)
	if cert && key {
		ca.KeyPair = KeyPair{Cert: v.preloadedCert(EdgeCACert), Key: v.preloadedKey(EdgeCACert)}
		return true
	}
	issue := v.issuedBy(EdgeCACert)
	if issue == nil {
		return false
	}
	ca.Issue = *issue
	return true
}
