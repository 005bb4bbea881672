package config_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

func TestKeysWithLessEffectThanTheirNamesSayAreWarnedOf(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", minimal, nil},
		{"manifest trust bundle", "hostname = \"x\"\nmanifest_trust_bundle_cert = \"file:///m.pem\"\n" + minimal, []string{"line 2: manifest_trust_bundle_cert: is handed to modules"}},
		{"limits of services", minimal + "[aziot_max_requests]\nkeyd = 50\ncertd = 50", []string{"line 4: aziot_max_requests: has no effect"}},
		{"local identities", minimal + "[localid]\ndomain = \"plant.example\"", []string{"line 4: localid: has no effect"}},
		{"keys of other programs", minimal + "[preloaded_keys]\nmy-key = \"file:///k\"\nmy-other = \"pkcs11:object=o?pin-value=geheim\"", []string{
			"line 5: preloaded_keys.my-key: has no effect: no program can ask", "line 6: preloaded_keys.my-other: has no effect: no program can ask",
		}},
		{"certificates of other programs", minimal + "[preloaded_certs]\nmy-cert = \"file:///c\"\nall = [\"my-cert\", \"aziot-edged-ca\"]", []string{
			"line 5: preloaded_certs.my-cert: has no effect", "line 6: preloaded_certs.all: has no effect",
		}},
		{"what other tables say", minimal + "[preloaded_keys]\ndevice-id = \"file:///k\"\nlocal-ca = \"file:///k\"\n[preloaded_certs]\ntrust-bundle-user = \"file:///c\"", []string{
			"line 5: preloaded_keys.device-id: has no effect: [provisioning] says", "line 6: preloaded_keys.local-ca: has no effect: write [cert_issuance.local_ca]",
			"line 8: preloaded_certs.trust-bundle-user: has no effect: write trust_bundle_cert",
		}},
		{"issued to other programs", minimal + "[cert_issuance.certs.my-cert]\nmethod = \"self_signed\"", []string{"line 4: cert_issuance.certs.my-cert: has no effect"}},
		{"edge CA has its own table", minimal + "[edge_ca]\nmethod = \"self_signed\"\n[cert_issuance.certs.aziot-edged-ca]\nmethod = \"est\"", []string{"line 6: cert_issuance.certs.aziot-edged-ca: has no effect: [edge_ca] says"}},
		{"edge CA of a certificate alone", minimal + "[preloaded_certs]\naziot-edged-ca = \"file:///c\"", []string{"line 5: preloaded_certs.aziot-edged-ca: has no effect: [edge_ca] says"}},
		{"manifest trust bundle of several", minimal + "[preloaded_certs]\naziot-edged-manifest-trust-bundle = [\"a\"]", []string{"line 5: preloaded_certs.aziot-edged-manifest-trust-bundle: has no effect: write manifest_trust_bundle_cert"}},
	} {
		got, err := config.Parse([]byte(c.text), "m")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		ok := len(got.Warnings) == len(c.want)
		var all []string
		for i, w := range got.Warnings {
			all = append(all, w.Error())
			ok = ok && strings.HasPrefix(w.Error(), c.want[i])
		}
		if !ok || strings.Contains(strings.Join(all, ""), "geheim") {
			t.Errorf("%s: warnings %q, want %q", c.name, all, c.want)
		}
	}
}

// serverCert is the entry of a module's certificate in one generation.
func serverCert(generation, days int) string {
	return fmt.Sprintf("[cert_issuance.certs.\"aziot-edged/module/a:63800000000000000%d:server\"]\nexpiry_days = %d\n", generation, days)
}

func TestTablesByID(t *testing.T) {
	const est = "[cert_issuance.est.urls]\ndefault = \"https://est.example/\"\n[cert_issuance.est.auth]\nbootstrap_identity_cert = \"/b.pem\"\nbootstrap_identity_pk = \"/b.key\"\n"
	const token = "[aziot_keys]\npkcs11_lib_path = \"/lib.so\"\n"
	x509 := "[provisioning]\nsource = \"manual\"\niothub_hostname = \"h\"\ndevice_id = \"d\"\n[provisioning.authentication]\nmethod = \"x509\"\n"
	for _, c := range []struct {
		name, text string
		check      func(c config.Config) bool
	}{
		{"key of the issued identity", x509 + "identity_cert = { method = \"est\" }\n" + est + token + "[preloaded_keys]\ndevice-id = \"pkcs11:object=d\"", func(c config.Config) bool {
			return string(c.Identity.CertPK) == "pkcs11:object=d"
		}},
		{"named key counts before", x509 + "identity_cert = { method = \"est\" }\nidentity_pk = \"/k\"\n" + est, func(c config.Config) bool {
			return string(c.Identity.CertPK) == "/k"
		}},
		{"how the identity is issued", x509 + est + "[cert_issuance.certs.device-id]\nmethod = \"est\"\ncommon_name = \"other\"\nexpiry_days = 7", func(c config.Config) bool {
			i := c.Identity.Issue
			return i.Method == config.EST && i.CommonName == "other" && i.ExpiryDays == 7 && i.URL == "https://est.example/" && i.AutoRenew.Policy.RotateKey && c.Issuance.Certs == nil
		}},
		{"key of the EST identity", x509 + "identity_cert = { method = \"est\" }\n" + est + "[preloaded_keys]\nest-id = \"tpm:handle=0x81000200\"", func(c config.Config) bool {
			return string(c.Identity.Issue.CertPK) == "tpm:handle=0x81000200" && c.TPM.Needed
		}},
		{"key of one certificate's EST identity", minimal + est + "[edge_ca]\nmethod = \"est\"\nbootstrap_identity_cert = \"/c\"\nbootstrap_identity_pk = \"/d\"\n[preloaded_keys]\nest-id-aziot-edged-ca = \"tpm:handle=0x81000200\"", func(c config.Config) bool {
			return string(c.EdgeCA.CertPK) == "tpm:handle=0x81000200"
		}},
		{"operator's edge CA", minimal + "[preloaded_keys]\naziot-edged-ca = \"file:///ca.key\"\n[preloaded_certs]\naziot-edged-ca = \"file:///ca.pem\"", func(c config.Config) bool {
			return c.EdgeCA.KeyPair == config.KeyPair{Cert: "/ca.pem", Key: "/ca.key"} && c.EdgeCA.Method == ""
		}},
		{"key of the issued edge CA", minimal + token + "[edge_ca]\nmethod = \"self_signed\"\n[preloaded_keys]\naziot-edged-ca = \"pkcs11:object=ca\"", func(c config.Config) bool {
			return c.EdgeCA.KeyPair.Cert == "" && string(c.EdgeCA.Key) == "pkcs11:object=ca"
		}},
		{"how the edge CA is issued", minimal + est + "[cert_issuance.certs.aziot-edged-ca]\nmethod = \"est\"\nsubject = { CN = \"ca\", O = \"plant\" }", func(c config.Config) bool {
			return c.EdgeCA.Method == config.EST && c.EdgeCA.Subject["O"] == "plant" && c.EdgeCA.URL == "https://est.example/"
		}},
		{"key of the issued local CA", minimal + "[preloaded_keys]\nlocal-ca = \"file:///k\"\n[cert_issuance.local_ca.cert]\nmethod = \"self_signed\"\nsubject = { O = \"plant\" }", func(c config.Config) bool {
			ca := c.Issuance.LocalCA
			return ca.Key == "/k" && ca.Cert == "" && ca.CertValue == nil && ca.Issue.CommonName == "local CA m" && ca.Issue.Subject["O"] == "plant"
		}},
		{"certificates of modules", minimal + "[cert_issuance.certs.\"aziot-edged/module/$edgeHub:638000000000000001:server\"]\nmethod = \"self_signed\"\nexpiry_days = 7\n[cert_issuance.certs.\"aziot-edged/module/a:b:identity\"]\ncommon_name = \"x\"", func(c config.Config) bool {
			m := c.Issuance.Modules
			return len(m) == 2 && m["$edgeHub:server"].ExpiryDays == 7 && m["a:b:identity"].CommonName == "x"
		}},
		{"newest generation of a module counts", minimal + serverCert(1, 3) + serverCert(2, 1) + serverCert(3, 2), func(c config.Config) bool {
			m := c.Issuance.Modules
			return len(m) == 1 && m["a:server"].ExpiryDays == 2
		}},
		{"master keys", minimal + "[preloaded_keys]\naziot_identityd_master_id = \"file:///i\"\niotedge_master_encryption_id = \"file:///e\"", func(c config.Config) bool {
			return c.MasterKeys == config.MasterKeys{Identity: "/i", Encryption: "/e"}
		}},
		{"imported master key", "imported_master_encryption_key = \"/e\"\nprefer_module_identity_cache = true\n" + minimal, func(c config.Config) bool {
			return c.MasterKeys == config.MasterKeys{Encryption: "/e"} && c.PreferCache
		}},
	} {
		got, err := config.Parse([]byte(c.text), "m")
		if err != nil || len(got.Warnings) > 0 || !c.check(got) {
			t.Errorf("%s: %v, warnings %v, identity %+v, edge CA %+v, master keys %+v", c.name, err, got.Warnings, got.Identity, got.EdgeCA, got.MasterKeys)
		}
	}
	got, err := config.Parse([]byte(minimal+"[preloaded_certs]\naziot-edged-manifest-trust-bundle = \"file:///m.pem\""), "m")
	if err != nil || got.ManifestTrustBundleCert != "/m.pem" || len(got.Warnings) != 1 {
		t.Errorf("manifest trust bundle: %v, %q, %v", err, got.ManifestTrustBundleCert, got.Warnings)
	}
}

func TestAdditionalInfoIsATableOrAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "info.toml")
	if err := os.WriteFile(file, []byte("site = \"plant 4\"\nline = \"2\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"table": minimal + "[additional_info]\nsite = \"plant 4\"\nline = \"2\"",
		"file":  "additional_info = \"file://" + file + "\"\n" + minimal,
	} {
		got, err := config.Parse([]byte(text), "m")
		if err != nil || !slices.Equal(slices.Sorted(maps.Keys(got.AdditionalInfo)), []string{"line", "site"}) || got.AdditionalInfo["site"] != "plant 4" {
			t.Errorf("%s: %v, %v", name, got.AdditionalInfo, err)
		}
	}
}
