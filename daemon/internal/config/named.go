package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Ids that the original knows keys and certificates by, where they mean something here.
const (
	identityMasterKey   = "aziot_identityd_master_id"
	encryptionMasterKey = "iotedge_master_encryption_id"
	estIdentity         = "est-id"
	manifestTrust       = "aziot-edged-manifest-trust-bundle"
)

// MaxServiceRequests are limits of services that the original has.
type MaxServiceRequests struct {
	Keyd      int `toml:"keyd"`
	Certd     int `toml:"certd"`
	Identityd int `toml:"identityd"`
	Tpmd      int `toml:"tpmd"`
}

// LocalID is about identities that the original gives to programs of the host.
type LocalID struct {
	Domain string `toml:"domain"`
}

// MasterKeys are files of 32 bytes that the master keys begin with; empty means random
// bytes. Paths after Load.
type MasterKeys struct{ Identity, Encryption string }

// advice says what to write for ids that [preloaded_keys] and [preloaded_certs] do not
// set in the original either, because its other tables do.
var advice = map[string]string{
	IdentityCert: "[provisioning] says where the device's key and certificate are", EdgeCACert: "[edge_ca] says where key and certificate are",
	LocalCACert: "write [cert_issuance.local_ca]", "est-bootstrap-id": "write [cert_issuance.est.auth]", estIdentity: "write [cert_issuance.est.auth]",
	"trust-bundle-user": "write trust_bundle_cert", "aziot-edged-trust-bundle": "write trust_bundle_cert",
	manifestTrust: "write manifest_trust_bundle_cert",
}

// named prepares what tables say by id; others ask for it.
func (v *validator) named() {
	v.taken = map[string]bool{}
	if v.set("aziot_max_requests") {
		v.warn("aziot_max_requests", "has no effect: the services that it limits are parts of edged; see iotedge_max_requests")
	}
	if v.set("localid") {
		v.warn("localid", "has no effect: no service gives identities to programs of the host")
	}
	v.manifestTrust()
	v.masterKeys()
	// Of several generations the newest counts, which is the last.
	for _, id := range slices.Sorted(maps.Keys(v.c.Issuance.Certs)) {
		v.moduleCert(id)
	}
}

// Ids of certificates of modules are between these; in the original the generation comes
// before the end, which is new when a module is.
const (
	moduleID            pattern = `^aziot-edged/module/.+:(server|identity)$`
	generationOfModule  pattern = `:[0-9]{10,}:server$`
	beginningOfModuleID         = "aziot-edged/module/"
)

// moduleCert takes an entry about the certificates of a module.
func (v *validator) moduleCert(id string) {
	if !moduleID.MatchString(id) {
		return
	}
	issue := v.issuedBy(id)
	if issue == nil {
		return
	}
	table := "cert_issuance.certs." + id
	if issue.URL != "" || issue.ESTAuth != (ESTAuth{}) || v.set(table+".auto_renew") {
		v.bad(table, "certificates of modules are the edge CA's: only common_name, subject and expiry_days count")
	}
	v.nameAndDays(table, issue)
	leaf := strings.TrimPrefix(id, beginningOfModuleID)
	if generationOfModule.MatchString(leaf) {
		leaf = leaf[:strings.LastIndexByte(strings.TrimSuffix(leaf, ":server"), ':')] + ":server"
	}
	if v.c.Issuance.Modules == nil {
		v.c.Issuance.Modules = map[string]Issue{}
	}
	v.c.Issuance.Modules[leaf] = *issue
}

// manifestTrust reads the bundle by either of its names.
func (v *validator) manifestTrust() {
	c, key := v.c, "manifest_trust_bundle_cert"
	if c.ManifestTrustBundleCert != "" {
		c.ManifestTrustBundleCert = v.file(key, c.ManifestTrustBundleCert)
	} else if c.ManifestTrustBundleCert = v.preloadedCert(manifestTrust); c.ManifestTrustBundleCert != "" {
		key = "preloaded_certs." + manifestTrust
	}
	if c.ManifestTrustBundleCert != "" {
		v.warn(key, "is handed to modules that ask for it; edgeAgent does not verify signatures of manifests")
	}
}

func (v *validator) masterKeys() {
	m := &v.c.MasterKeys
	take := func(id string) string {
		key := v.preloadedKey(id)
		if key != "" && !key.InFile() {
			v.bad("preloaded_keys."+id, "must be a file:// URI: this key is not used within a token or the TPM; see tpm_master_keys")
		}
		return string(key)
	}
	m.Identity, m.Encryption = take(identityMasterKey), take(encryptionMasterKey)
	const imported = "imported_master_encryption_key"
	if !v.set(imported) {
		return
	}
	if m.Encryption != "" {
		v.bad(imported, "excludes preloaded_keys.%s", encryptionMasterKey)
	}
	m.Encryption = v.file(imported, v.c.ImportedKey)
}

// preloadedKey takes a key of [preloaded_keys]; "" if there is none of that id.
func (v *validator) preloadedKey(id string) KeyURI {
	uri, ok := v.c.PreloadedKeys[id]
	if !ok {
		return ""
	}
	v.taken["preloaded_keys."+id] = true
	return v.key("preloaded_keys."+id, uri)
}

// preloadedCert takes a file of [preloaded_certs]; "" if there is none of that id. A list
// of other ids is not taken.
func (v *validator) preloadedCert(id string) string {
	uri, ok := v.c.PreloadedCerts[id].(string)
	if !ok {
		return ""
	}
	v.taken["preloaded_certs."+id] = true
	return v.file("preloaded_certs."+id, uri)
}

// issuedBy takes a table of [cert_issuance.certs]; nil if there is none of that id.
func (v *validator) issuedBy(id string) *Issue {
	m, ok := v.c.Issuance.Certs[id].(map[string]any)
	if !ok {
		return nil
	}
	key := "cert_issuance.certs." + id
	v.taken[key] = true
	out := &Issue{AutoRenew: defaultRenew()}
	v.table(key, m, out)
	return out
}

// rest warns of ids that nobody has asked for. It comes last.
func (v *validator) rest() {
	tables := map[string][]string{
		"preloaded_keys":      slices.Sorted(maps.Keys(v.c.PreloadedKeys)),
		"preloaded_certs":     slices.Sorted(maps.Keys(v.c.PreloadedCerts)),
		"cert_issuance.certs": slices.Sorted(maps.Keys(v.c.Issuance.Certs)),
	}
	for table, ids := range tables {
		for _, id := range ids {
			key := table + "." + id
			if v.taken[key] {
				continue
			}
			if !v.wellFormed(table, id) {
				v.bad(key, "value of the wrong type")
				continue
			}
			why := advice[id]
			if why == "" {
				why = "no program can ask for it by its id"
			}
			v.warn(key, fmt.Sprintf("has no effect: %s", why))
		}
	}
	v.c.Issuance.Certs = nil // may hold passwords as plain text
}

// wellFormed looks at the form of what has no effect.
func (v *validator) wellFormed(table, id string) bool {
	switch table {
	case "preloaded_certs":
		switch c := v.c.PreloadedCerts[id].(type) {
		case string:
			return true
		case []any:
			return !slices.ContainsFunc(c, func(x any) bool { _, ok := x.(string); return !ok })
		}
		return false
	case "cert_issuance.certs":
		_, ok := v.c.Issuance.Certs[id].(map[string]any)
		return ok
	}
	return true
}
