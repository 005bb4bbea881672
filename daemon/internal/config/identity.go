package config

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// Mode says when the device provisions itself anew without being told to. It has
// no effect with manual provisioning.
type Mode string

// The modes, by the words of the file.
const (
	Dynamic         Mode = "Dynamic"         // when the hub refuses it, or the agent asks
	AlwaysOnStartup Mode = "AlwaysOnStartup" // also whenever the daemon starts
	OnErrorOnly     Mode = "OnErrorOnly"     // only when the hub refuses it
)

// Methods of identities and issuance, by the words of the file.
const (
	SAS        = "sas"
	X509       = "x509"
	TPMKey     = "tpm"
	EST        = "est"
	LocalCA    = "local_ca"
	SelfSigned = "self_signed"
)

// KeyURI names a key: after Load the absolute path of a file, a "tpm:" URI, or a
// "pkcs11:" URI, which may hold a PIN. Printing it leaves the PIN out; convert with
// string() to use it.
type KeyURI string

// OnToken tells whether the key is on a PKCS#11 token.
func (k KeyURI) OnToken() bool { return strings.HasPrefix(string(k), "pkcs11:") }

// InTPM tells whether the key is in the TPM.
func (k KeyURI) InTPM() bool { return strings.HasPrefix(string(k), tpm.Scheme) }

// InFile tells whether the key is in a file.
func (k KeyURI) InFile() bool { return k != "" && !k.OnToken() && !k.InTPM() }

// String returns the URI without its query, where the PIN is.
func (k KeyURI) String() string {
	s, _, _ := strings.Cut(string(k), "?")
	return s
}

// Format prints String under every verb.
func (k KeyURI) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue returns String.
func (k KeyURI) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText returns String.
func (k KeyURI) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Provisioning is the table of that name, as written: see Device and Identity for
// what it means.
type Provisioning struct {
	Source           string         `toml:"source"` // "manual" or "dps"
	ConnectionString Secret         `toml:"connection_string"`
	HubName          string         `toml:"iothub_hostname"`
	DeviceID         string         `toml:"device_id"`
	Authentication   Authentication `toml:"authentication"`
	// GlobalEndpoint is the URL of the provisioning service, without a path after
	// Load.
	GlobalEndpoint string      `toml:"global_endpoint"`
	IDScope        string      `toml:"id_scope"`
	Payload        Payload     `toml:"payload"`
	Attestation    Attestation `toml:"attestation"`
}

// Payload is JSON that is sent along with a registration: a file path after Load,
// or an http(s) URL.
type Payload struct {
	URI string `toml:"uri"`
}

// Authentication is the device's credential in explicit manual provisioning.
type Authentication struct {
	Method string       `toml:"method"`
	Key    SymmetricKey `toml:"device_id_pk"`
	Cert   any          `toml:"identity_cert"`
	CertPK KeyURI       `toml:"identity_pk"`
}

// Attestation is how the device proves to DPS which registration it is.
type Attestation struct {
	Method         string       `toml:"method"`
	RegistrationID string       `toml:"registration_id"`
	Key            SymmetricKey `toml:"symmetric_key"`
	Cert           any          `toml:"identity_cert"`
	CertPK         KeyURI       `toml:"identity_pk"`
}

// SymmetricKey is base64 text, or the URI of a file of raw bytes, or of a key on a
// token or in the TPM.
type SymmetricKey struct {
	Value Secret `toml:"value"`
	URI   KeyURI `toml:"uri"`
}

// Device is the provisioned device.
type Device struct {
	HubName  string
	DeviceID string
	// Gateway is the host to dial for the hub: the parent, or the hub itself.
	Gateway string
}

// Nested tells whether there is a parent between the device and its hub.
func (d Device) Nested() bool { return d.Gateway != d.HubName }

// Assigned is the device once it is known to which hub it belongs.
func (c *Config) Assigned(hub, device string) Device {
	return Device{HubName: hub, DeviceID: device, Gateway: cmp.Or(c.ParentHostname, hub)}
}

// Identity is the device's credential.
type Identity struct {
	// Method is SAS, X509 or TPMKey.
	Method string
	// RegistrationID is that of DPS; empty means the certificate's common name.
	RegistrationID string
	// Key is the symmetric key unless it is on a token or in the TPM, where KeyURI names
	// it.
	Key    sas.Key // prints as stars
	KeyURI KeyURI
	// Cert and CertPK are the files of a certificate that is made elsewhere, unless
	// Issue says how to get one.
	Cert   string
	CertPK KeyURI
	Issue  Issue
}

// Issue says how a certificate is obtained; zero means not at all.
type Issue struct {
	Method     string            `toml:"method"` // EST, LocalCA or SelfSigned
	CommonName string            `toml:"common_name"`
	Subject    map[string]string `toml:"subject"` // CN, O, OU, L, ST, C
	ExpiryDays int               `toml:"expiry_days"`
	// URL replaces [cert_issuance.est.urls]; Auth replaces [cert_issuance.est.auth].
	URL string `toml:"url"`
	ESTAuth
	AutoRenew AutoRenew `toml:"auto_renew"`
}

// ESTAuth is how to authenticate at an EST server: by name and password, by an own
// certificate, or by a bootstrap certificate until there is an own one.
type ESTAuth struct {
	Username string `toml:"username"`
	Password Secret `toml:"password"`
	Cert     string `toml:"identity_cert"` // file path after Load
	// CertPK is the key of Cert. After Load it may be without Cert: then it is where the
	// key is of what the bootstrap certificate gets.
	CertPK        KeyURI `toml:"identity_pk"`
	BootstrapCert string `toml:"bootstrap_identity_cert"` // file path after Load
	BootstrapPK   KeyURI `toml:"bootstrap_identity_pk"`
}

// AutoRenew says when a certificate is replaced.
type AutoRenew struct {
	RotateKey     bool   `toml:"rotate_key"`
	ThresholdText string `toml:"threshold"`
	RetryText     string `toml:"retry"`
	// Policy is what they say, after Load.
	Policy renewal.Policy `toml:"-"`
}

func defaultRenew() AutoRenew {
	return AutoRenew{RotateKey: true, ThresholdText: "80%", RetryText: "4%"}
}

// Issuance says where certificates come from.
type Issuance struct {
	EST     ESTServer `toml:"est"`
	LocalCA IssuingCA `toml:"local_ca"`
	// Certs says by id how certificates are issued of which no other table says it; nil
	// after Load.
	Certs map[string]any `toml:"certs"`
	// Modules are what of Certs is about certificates of modules, by pki.LeafID, after
	// Load: only names and ExpiryDays count.
	Modules map[string]Issue `toml:"-"`
}

// ESTServer is the server of RFC 7030.
type ESTServer struct {
	// TrustedCerts are files of roots for the server's certificate, besides the
	// system's; paths after Load.
	TrustedCerts []string `toml:"trusted_certs"`
	Auth         ESTAuth  `toml:"auth"`
	// URLs by the name of a certificate; "default" for all others.
	URLs              map[string]string `toml:"urls"`
	IdentityAutoRenew AutoRenew         `toml:"identity_auto_renew"`
}

// IssuingCA is a CA on the device that issues certificates to it.
type IssuingCA struct {
	// CertValue is the URI of a file, or a table that says how the CA's certificate is
	// issued; nil after Load.
	CertValue any `toml:"cert"`
	// Key is that of Cert. After Load it may be without Cert: then it is where the key is of
	// what is issued.
	Key KeyURI `toml:"pk"`
	// Cert is the file, unless Issue says how to get a certificate. After Load.
	Cert  string `toml:"-"`
	Issue Issue  `toml:"-"`
}

// KeyPair is a certificate with its key.
type KeyPair struct {
	Cert string `toml:"cert"` // file path after Load
	Key  KeyURI `toml:"pk"`
}

// EdgeCA says where the edge CA comes from: the operator's files, an issuer, or,
// when nothing is said, from the daemon itself ("quick start"). After Load there may be a
// key without a certificate: it is that of the one that is issued.
type EdgeCA struct {
	KeyPair
	Days int `toml:"auto_generated_edge_ca_expiry_days"`
	Issue
}

// Keys says where keys are that the daemon makes: in files, unless something else is set.
type Keys struct {
	// LibPath is the PKCS#11 library.
	LibPath string `toml:"pkcs11_lib_path"`
	// BaseSlot is the URI of the token for keys of issued certificates.
	BaseSlot KeyURI `toml:"pkcs11_base_slot"`
	// TPMNewKeys has keys of issued certificates made in the TPM.
	TPMNewKeys bool `toml:"tpm_new_keys"`
	// TPMMasterKeys has the master keys sealed by the TPM.
	TPMMasterKeys bool `toml:"tpm_master_keys"`
}

// TPM says where the TPM is and which of its handles the daemon uses.
type TPM struct {
	// Needed tells whether anything in the configuration is in the TPM, after Load.
	Needed bool `toml:"-"`
	// TCTI is "device", "device:/dev/tpmrm0", "swtpm:path=/socket" or
	// "swtpm:host=127.0.0.1,port=2321".
	TCTI string `toml:"tcti"`
	// AuthKeyIndex is where in the owner's handles the identity key lives, from 0 to
	// 0x7FFFFF.
	AuthKeyIndex  int64 `toml:"auth_key_index"`
	Authorization struct {
		Endorsement Secret `toml:"endorsement"`
		Owner       Secret `toml:"owner"`
	} `toml:"hierarchy_authorization"`
}

// Chip makes the TPM; it is not opened yet.
func (t TPM) Chip() (*tpm.TPM, error) {
	return tpm.New(tpm.Options{
		TCTI: t.TCTI, AuthKeyIndex: uint32(t.AuthKeyIndex),
		Endorsement: []byte(string(t.Authorization.Endorsement)), Owner: []byte(string(t.Authorization.Owner)),
	})
}
