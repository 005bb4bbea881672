package redact_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/breakwater-iot/breakwater/daemon/internal/redact"
)

// Two lines of something that is no key of anybody.
const (
	keyLine = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
	keyTail = "MzEfYyjiWA4R4/M2bS1GB4t7NXp98C3supV2vjLIVTw="
)

func text(t *testing.T, in io.Reader) string {
	t.Helper()
	var out bytes.Buffer
	w := redact.NewWriter(&out)
	_, err := io.Copy(w, in)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// covered are texts with a secret in them, and what is left of them.
var covered = map[string]string{
	"HostName=h;DeviceId=d;SharedAccessKey=abc=;x":                                                  "HostName=h;DeviceId=d;SharedAccessKey=***;x",
	"HostName=h;SharedAccessKeyName=owner;SharedAccessKey=Abc+/1=":                                  "HostName=h;SharedAccessKeyName=owner;SharedAccessKey=***",
	`connection_string = "HostName=h;DeviceId=d;SharedAccessKey=abc="`:                              `connection_string = "HostName=h;DeviceId=d;SharedAccessKey=***"`,
	"DefaultEndpointsProtocol=https;AccountName=a;AccountKey=ab/c==;E=x":                            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=***;E=x",
	"SharedAccessSignature sr=h&sig=a%2Bb%3D&se=5&skn=":                                             "SharedAccessSignature sr=h&sig=***&se=5&skn=",
	"PUT https://a.blob.test/c?sv=1&sig=abc%2F&se=2 201":                                            "PUT https://a.blob.test/c?sv=1&sig=***&se=2 201",
	"Authorization: Bearer abcdefgh.ijk":                                                            "Authorization: Bearer ***",
	`"Authorization":["Basic dXNlcjpwYXNz"]`:                                                        `"Authorization":["Basic ***"]`,
	"authorization: basic dXNlcjpwYXNz":                                                             "authorization: basic ***",
	`{"password":"a b","user":"x"}`:                                                                 `{"password":"***","user":"x"}`,
	`{"password":"a\"b c","user":"x"}`:                                                              `{"password":"***","user":"x"}`,
	`level=info msg="{\"password\":\"abc d\",\"user\":\"x\"}"`:                                      `level=info msg="{\"password\":\"***\",\"user\":\"x\"}"`,
	`"{\\\"password\\\":\\\"abc d\\\",\\\"user\\\":\\\"x\\\"}"`:                                     `"{\\\"password\\\":\\\"***\\\",\\\"user\\\":\\\"x\\\"}"`,
	`{"auths":{"reg.test":{"auth":"dTpw"}}}`:                                                        `{"auths":{"reg.test":{"auth":"***"}}}`,
	`{"identitytoken":"eyJ0.x.y"}`:                                                                  `{"identitytoken":"***"}`,
	"X-Registry-Auth: eyJ1c2VybmFtZSI6":                                                             "X-Registry-Auth: ***",
	"REGISTRY_PASSWORD=hunter2 PATH=/bin":                                                           "REGISTRY_PASSWORD=*** PATH=/bin",
	"password = 'hunter 2'\n[x]\n":                                                                  "password = '***'\n[x]\n",
	"password: hunter2\nuser: x\n":                                                                  "password: ***\nuser: x\n",
	"login --username u --password hunter2 reg.test":                                                "login --username u --password *** reg.test",
	`"symmetricKey":{"primaryKey":"abc=","secondaryKey":"def="}`:                                    `"symmetricKey":{"primaryKey":"***","secondaryKey":"***"}`,
	"symmetric_key = { value = \"abc=\" }":                                                          "symmetric_key = { value = \"***\" }",
	"device_id_pk = { value = \"abc=\" }":                                                           "device_id_pk = { value = \"***\" }",
	"pkcs11:token=edge?pin-value=1234&x":                                                            "pkcs11:token=edge?pin-value=***&x",
	"proxy http://user:pass@host:3128/ used":                                                        "proxy http://***@host:3128/ used",
	"clone https://token@host/x":                                                                    "clone https://***@host/x",
	"https://host/path?api-version=1 primaryKey=abc":                                                "https://host/path?api-version=1 primaryKey=***",
	"access_token=abc&x=y":                                                                          "access_token=***&x=y",
	"a\n-----BEGIN EC PRIVATE KEY-----\nMHc\nabc\n-----END EC PRIVATE KEY-----\nb\n":                "a\n-----BEGIN EC PRIVATE KEY-----***-----END EC PRIVATE KEY-----\nb\n",
	"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + keyLine + "\n-----END ENCRYPTED PRIVATE KEY-----\n": "-----BEGIN ENCRYPTED PRIVATE KEY-----***-----END ENCRYPTED PRIVATE KEY-----\n",
	`one "-----BEGIN PRIVATE KEY-----\nMHc\n-----END PRIVATE KEY-----" line`:                        `one "-----BEGIN PRIVATE KEY-----***-----END PRIVATE KEY-----" line`,
	"2026-01-02T03:04:05.000000000Z -----BEGIN PRIVATE KEY-----\n2026-01-02T03:04:05.000000000Z " + keyLine + "\n2026-01-02T03:04:05.000000000Z -----END PRIVATE KEY-----\n": "2026-01-02T03:04:05.000000000Z -----BEGIN PRIVATE KEY-----***-----END PRIVATE KEY-----\n",
	// A key whose beginning was cut off, as at the beginning of a log.
	keyLine + "\n" + keyTail + "\n-----END PRIVATE KEY-----\n":                                                  "***\n***\n-----END PRIVATE KEY-----\n",
	"2026-01-02T03:04:05.000000000Z " + keyTail + "\n":                                                          "2026-01-02T03:04:05.000000000Z ***\n",
	"one password=abc\x00 password=def, sig=ghi; and more":                                                      "one password=*** password=***, sig=***; and more",
	"a certificate\n-----BEGIN CERTIFICATE-----\n" + keyLine + "\n-----END CERTIFICATE-----\n" + keyLine + "\n": "a certificate\n-----BEGIN CERTIFICATE-----\n" + keyLine + "\n-----END CERTIFICATE-----\n***\n",
}

// kept are texts without a secret.
var kept = []string{
	"",
	"\n\n",
	"nothing to see: signature design, passwords are bad",
	"basic authentication is off, password: \n",
	`"authentication":{"type":"sas"},"auth":{"x":1},"password":""`,
	"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
	"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n",
	"/var/lib/aziot/edged/volumes/Abc1/Def2/Ghi3/Jkl4\n",
	"----------------------------------------------------------------\n",
	"-----BEGIN CERTIFICATE-----\n" + keyLine + "\n-----END CERTIFICATE-----\n",
	"HostName=h;DeviceId=d;SharedAccessKeyName=owner\n",
	"http://host:3128/path and mail to x@host.test\n",
}

func TestSecretsAreCovered(t *testing.T) {
	for in, want := range covered {
		in, want = strings.ReplaceAll(in, "\x00", ""), strings.ReplaceAll(want, "\x00", "")
		if got := text(t, strings.NewReader(in)); got != want {
			t.Errorf("%q\n got %q\nwant %q", in, got, want)
		}
	}
}

func TestOtherTextIsKept(t *testing.T) {
	for _, in := range append(kept, strings.Repeat("x", 300<<10), strings.Repeat("some words ", 30<<10)) {
		if got := text(t, strings.NewReader(in)); got != in {
			t.Errorf("%.80q\n got %.80q", in, got)
		}
	}
}

// The pieces in which the text comes make no difference.
func TestSecretsAcrossPiecesAreCovered(t *testing.T) {
	for in, want := range covered {
		if got := text(t, iotest.OneByteReader(strings.NewReader(in))); got != want {
			t.Errorf("%q\n got %q", in, got)
		}
	}
}

// In a line that is too long to be looked at whole, the secret may lie anywhere.
func TestSecretsInEndlessLinesAreCovered(t *testing.T) {
	const window, overlap = 64 << 10, 4 << 10
	for in, want := range covered {
		if strings.Contains(in, "\n") {
			continue
		}
		const at = window - overlap // where the line is cut
		for _, back := range []int{1, len(in) / 2} {
			fill := strings.Repeat("x", at-back-1) + " "
			end := strings.Repeat(" y", overlap)
			if got := text(t, strings.NewReader(fill+in+end)); got != fill+want+end {
				t.Errorf("%q, %d bytes before the cut: %q", in, back, got[at-200:min(len(got), at+200)])
			}
		}
	}
}

func TestLongSecretsAreCovered(t *testing.T) {
	long := strings.Repeat("Zq", 100<<10)
	for _, in := range []string{
		"SharedAccessKey=" + long + ";x", `{"password":"` + long + `","x":1}`, "sig=" + long + "&x\n",
		"-----BEGIN PRIVATE KEY-----" + long[:60<<10] + "-----END PRIVATE KEY-----\nx",
	} {
		if got := text(t, strings.NewReader(in)); strings.Contains(got, "ZqZq") || !strings.Contains(got, "***") || !strings.Contains(got, "x") {
			t.Errorf("%.40q: %.200q", in, got)
		}
	}
	// A key without an end does not take everything that follows with it.
	in := "-----BEGIN PRIVATE KEY-----\n" + strings.Repeat(keyLine+"\n", 2000) + "the end\n"
	if got := text(t, strings.NewReader(in)); strings.Contains(got, keyLine) || !strings.HasSuffix(got, "the end\n") {
		t.Errorf("%.100q", got)
	}
}

// counter counts what has been passed on.
type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

func TestLittleIsHeld(t *testing.T) {
	var out counter
	w := redact.NewWriter(&out)
	piece := []byte(strings.Repeat("a line without an end ", 50))
	for in := 0; in < 8<<20; {
		n, err := w.Write(piece)
		if err != nil {
			t.Fatal(err)
		}
		if in += n; in-out.n > 128<<10 {
			t.Fatalf("of %d bytes %d are passed on", in, out.n)
		}
	}
}

func TestManySecretsInOneLineTakeNoLongerEach(t *testing.T) {
	in := strings.Repeat("password=abcdef ", 8<<10)
	if got := text(t, strings.NewReader(in)); strings.Contains(got, "abcdef") {
		t.Errorf("%.100q", got)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestErrorOfTheTargetIsTold(t *testing.T) {
	w := redact.NewWriter(broken{})
	_, err := w.Write([]byte("a\n"))
	if again := w.Close(); err == nil || again == nil {
		t.Errorf("%v, %v", err, again)
	}
}

func FuzzRedact(f *testing.F) {
	for in := range covered {
		f.Add(in, 3)
	}
	for _, in := range kept {
		f.Add(in, 1)
	}
	f.Fuzz(func(t *testing.T, in string, piece int) {
		whole := text(t, strings.NewReader(in))
		var out bytes.Buffer
		w := redact.NewWriter(&out)
		for rest := []byte(in); len(rest) > 0; {
			n := min(max(1, piece), len(rest))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil || out.String() != whole {
			t.Errorf("%v: in pieces of %d %q, whole %q", err, piece, &out, whole)
		}
		secret := fmt.Sprintf("x SharedAccessKey=%s;", strings.Repeat("Q", 40))
		if !strings.Contains(in, "QQQQ") && strings.Contains(text(t, strings.NewReader("\n"+secret+"\n"+in)), "QQQQ") {
			t.Error("a secret gets through")
		}
	})
}
