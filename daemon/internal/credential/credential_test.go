package credential_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// token has one secret.
type token struct{ secret sas.Key }

func (t token) HMAC(_ context.Context, uri string, data []byte) ([]byte, error) {
	if uri != "pkcs11:object=device" {
		return nil, errors.New("no such key")
	}
	return t.secret.Sign(data)
}

func (token) Signer(context.Context, string) (crypto.Signer, error) {
	return nil, errors.New("no such key")
}

func TestSymmetricKeys(t *testing.T) {
	key := sas.Key("the key of the device")
	want, _ := key.Sign([]byte("x"))
	keys := credential.Keys{Token: token{key}}
	for name, id := range map[string]config.Identity{
		"in the config": {Method: config.SAS, Key: key},
		"on a token":    {Method: config.SAS, KeyURI: "pkcs11:object=device"},
		"in a TPM":      {Method: config.TPMKey},
	} {
		c, err := credential.Open(t.Context(), id, keys, nil, key)
		if err != nil || c.Certificate != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := c.Sign([]byte("x")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if _, err := credential.Open(t.Context(), config.Identity{Method: config.SAS, KeyURI: "pkcs11:object=device"}, credential.Keys{}, nil, nil); err == nil {
		t.Error("key on no token")
	}
}

func TestCertificatesThatDoNotDo(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil { // whatever the umask
			t.Fatal(err)
		}
		return path
	}
	empty := file("empty", "", 0o600)
	for _, c := range []struct{ name, cert, key, want string }{
		{"no file", dir + "/none", empty, "no such file"},
		{"no certificate", empty, empty, "no PEM certificate"},
		{"token without a library", file("cert", certificate, 0o600), "pkcs11:object=x", "no PKCS#11 library"},
		{"no key", dir + "/cert", empty, "no PEM private key"},
		{"key for all", dir + "/cert", file("open", "x", 0o644), "accessible to others"},
	} {
		id := config.Identity{Method: config.X509, Cert: c.cert, CertPK: config.KeyURI(c.key)}
		if _, err := credential.Open(t.Context(), id, credential.Keys{}, nil, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// certificate is one whose key nobody has.
const certificate = `-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUSEkiWhv4NSQWL5wEI+J/fEC9zzcwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjgyMDI4MjZaGA8yMTI2MTEwNDIwMjgy
NlowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNMm
gn51mPuIflVnPxZHhOJsmJqxwEqYEKsASIgvVVlx6N52/q34NUDhMc+1Z3Ktjc71
ON7dnBigbpmV6hT2kFOjUzBRMB0GA1UdDgQWBBQrSn06vbaFgGM5qNZ/4GLjRjW9
rjAfBgNVHSMEGDAWgBQrSn06vbaFgGM5qNZ/4GLjRjW9rjAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIApbt/N5fg6dNZhNB/0faSKW71FoO9HDBfm7
hNsuUCaBAiEAkWwXo1Q5X9iYZT6JREhdNZr4O83ZWYWPLAHdtbNScOk=
-----END CERTIFICATE-----
`
