package config

import (
	"net/url"
	"os"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// DefaultDPSEndpoint is where DPS is unless the file says otherwise.
const DefaultDPSEndpoint = "https://global.azure-devices-provisioning.net"

func (v *validator) provisioning() {
	switch m := v.c.Reprovisioning; m {
	case Dynamic, AlwaysOnStartup, OnErrorOnly:
	default:
		v.bad("auto_reprovisioning_mode", "must be %q, %q or %q", Dynamic, AlwaysOnStartup, OnErrorOnly)
	}
	switch p := &v.c.Provisioning; p.Source {
	case "manual":
		v.onlyFor("dps", "global_endpoint", "id_scope", "payload", "attestation")
		v.manual()
	case "dps":
		v.onlyFor("manual", "connection_string", "iothub_hostname", "device_id", "authentication")
		v.dps()
	case "":
		v.bad("provisioning.source", "missing")
	case "none":
		v.bad("provisioning.source", "%q is not supported by this version, only \"manual\" and \"dps\"", p.Source)
	default:
		v.bad("provisioning.source", "must be \"manual\" or \"dps\"")
	}
}

func (v *validator) onlyFor(source string, names ...string) {
	for _, name := range names {
		if key := "provisioning." + name; v.set(key) {
			v.bad(key, "is only for source = %q", source)
		}
	}
}

func (v *validator) manual() {
	p := &v.c.Provisioning
	explicit := v.set("provisioning.iothub_hostname") || v.set("provisioning.device_id") || v.set("provisioning.authentication")
	switch {
	case p.ConnectionString != "" && explicit:
		v.bad("provisioning.connection_string", "excludes iothub_hostname, device_id and authentication")
	case explicit:
		v.explicit()
	case p.ConnectionString != "":
		v.connectionString()
	default:
		v.bad("provisioning.connection_string", "missing")
	}
}

func (v *validator) connectionString() {
	const key = "provisioning.connection_string"
	s, err := connstr.Parse(string(v.c.Provisioning.ConnectionString))
	switch {
	case err != nil:
		v.bad(key, "%v", err)
	case s.DeviceID == "":
		v.bad(key, "names no device")
	case s.ModuleID != "":
		v.bad(key, "is that of a module, want that of the device")
	case s.GatewayHostName != "":
		v.bad(key, "GatewayHostName is for clients of an edge device: use parent_hostname")
	case s.X509:
		v.bad(key, "x509=true has no place for the certificate: use iothub_hostname, device_id and authentication")
	case len(s.SharedAccessKey) == 0:
		v.bad(key, "has no SharedAccessKey; a ready-made signature would expire")
	case !isHostName(s.HostName):
		v.bad(key, "HostName is not a host name")
	default:
		v.c.Device = v.c.Assigned(s.HostName, s.DeviceID)
		v.c.Identity = Identity{Method: SAS, Key: s.SharedAccessKey}
		v.deviceID(key)
	}
}

func (v *validator) explicit() {
	const table = "provisioning.authentication"
	p := &v.c.Provisioning
	if !isHostName(p.HubName) {
		v.bad("provisioning.iothub_hostname", "not a host name")
	}
	v.c.Device = v.c.Assigned(p.HubName, p.DeviceID)
	v.deviceID("provisioning.device_id")
	a := &p.Authentication
	switch a.Method {
	case SAS:
		v.excluded(table, "identity_cert", "identity_pk")
		v.symmetric(table+".device_id_pk", a.Key)
	case X509:
		v.excluded(table, "device_id_pk")
		v.certificate(table, a.Cert, a.CertPK, p.DeviceID)
		a.Cert = nil // a table may hold a password as plain text
	default:
		v.bad(table+".method", "must be \"sas\" or \"x509\"")
	}
}

func (v *validator) dps() {
	const table = "provisioning.attestation"
	p := &v.c.Provisioning
	if p.GlobalEndpoint == "" {
		p.GlobalEndpoint = DefaultDPSEndpoint
	}
	u, err := url.Parse(p.GlobalEndpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		v.bad("provisioning.global_endpoint", "must be an https:// URL without a path")
	}
	p.GlobalEndpoint = strings.TrimRight(p.GlobalEndpoint, "/")
	if !scopeName.MatchString(p.IDScope) {
		v.bad("provisioning.id_scope", "must be letters, digits and \"-\"")
	}
	v.payload()
	a := &p.Attestation
	id := a.RegistrationID
	if id != "" && !registrationName.MatchString(id) {
		v.bad(table+".registration_id", "must be letters, digits, \"-\", \".\", \"_\" and \":\", at most 128, the last a letter, digit or \"-\"")
	}
	switch a.Method {
	case "symmetric_key":
		v.excluded(table, "identity_cert", "identity_pk")
		v.symmetric(table+".symmetric_key", a.Key)
	case X509:
		v.excluded(table, "symmetric_key")
		v.certificate(table, a.Cert, a.CertPK, id)
		a.Cert = nil // a table may hold a password as plain text
	case TPMKey:
		v.excluded(table, "symmetric_key", "identity_cert", "identity_pk")
		v.c.Identity, v.c.TPM.Needed = Identity{Method: TPMKey}, true
	default:
		v.bad(table+".method", "must be \"symmetric_key\", \"x509\" or \"tpm\"")
		return
	}
	if id == "" && a.Method != X509 {
		v.bad(table+".registration_id", "missing")
	}
	v.c.Identity.RegistrationID = id
}

const (
	scopeName        pattern = `^[A-Za-z0-9-]{1,64}$`
	registrationName pattern = `^[A-Za-z0-9._:-]{0,127}[A-Za-z0-9-]$`
)

func (v *validator) payload() {
	p := &v.c.Provisioning.Payload
	if u, err := url.Parse(p.URI); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		return
	}
	p.URI = v.file("provisioning.payload.uri", p.URI)
}

func (v *validator) excluded(table string, names ...string) {
	for _, name := range names {
		if v.set(table + "." + name) {
			v.bad(table+"."+name, "has no meaning with this method")
		}
	}
}

func (v *validator) deviceID(key string) {
	if err := iothub.CheckID(v.c.Device.DeviceID); err != nil {
		v.bad(key, "device id: %v", err)
	}
}

// symmetric reads the device's symmetric key, unless it is on a token or in the TPM.
func (v *validator) symmetric(key string, pk SymmetricKey) {
	id := Identity{Method: SAS}
	switch {
	case (pk.Value == "") == (pk.URI == ""):
		v.bad(key, "needs either value or uri")
	case pk.Value != "":
		b, err := sas.ParseKey(string(pk.Value))
		if err != nil {
			v.bad(key+".value", "not base64")
		}
		id.Key = b
	default:
		uri := v.key(key+".uri", pk.URI)
		if uri.InFile() {
			id.Key = v.keyFile(key+".uri", string(uri))
		} else {
			id.KeyURI = uri
		}
	}
	v.c.Identity = id
}

func (v *validator) keyFile(key, path string) sas.Key {
	st, err := os.Stat(path)
	if err == nil && st.Mode().Perm()&0o007 != 0 {
		v.bad(key, "file holds a key but its mode is %04o: chmod 0600", st.Mode().Perm())
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		v.bad(key, "%v", err)
		return nil
	}
	if len(b) == 0 {
		v.bad(key, "key is empty")
	}
	return b
}

// certificate reads where the device's certificate is, or how to get one; name is
// its common name unless the file says another.
func (v *validator) certificate(table string, cert any, pk KeyURI, name string) {
	id := Identity{Method: X509}
	switch c := cert.(type) {
	case string:
		id.Cert = v.file(table+".identity_cert", c)
		if pk == "" {
			v.bad(table+".identity_pk", "missing")
		}
		id.CertPK = v.key(table+".identity_pk", pk)
	case map[string]any:
		id.Issue.AutoRenew = defaultRenew()
		v.table(table+".identity_cert", c, &id.Issue)
		v.issued(table, table+".identity_cert", &id, pk, name)
	case nil:
		issue := v.issuedBy(IdentityCert)
		if issue == nil {
			v.bad(table+".identity_cert", "missing: a file:// URI or a table")
			break
		}
		id.Issue = *issue
		v.issued(table, "cert_issuance.certs."+IdentityCert, &id, pk, name)
	default:
		v.bad(table+".identity_cert", "must be a file:// URI or a table")
	}
	v.c.Identity = id
}

// issued checks how the device's certificate is obtained, as the table cert says, and
// where its key is.
func (v *validator) issued(table, cert string, id *Identity, pk KeyURI, name string) {
	if id.Issue.CommonName == "" && id.Issue.Subject["CN"] == "" {
		id.Issue.CommonName = name
	}
	if id.Issue.CommonName == "" && id.Issue.Subject["CN"] == "" {
		v.bad(cert+".common_name", "missing")
	}
	v.issue(cert, &id.Issue, IdentityCert)
	if pk != "" {
		id.CertPK = v.key(table+".identity_pk", pk)
	} else {
		id.CertPK = v.preloadedKey(IdentityCert)
	}
}
