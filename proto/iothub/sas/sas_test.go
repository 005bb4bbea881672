package sas_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
	"pgregory.net/rapid"
)

const keyText = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func key(t testing.TB) sas.Key {
	t.Helper()
	k, err := sas.ParseKey(keyText)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Vectors of spec iothub-service 24.
var vectors = []struct{ resource, sig, keyName string }{
	{"myhub.azure-devices.net", "EUboRaKH3FCIMEMiPVcU/n+XoTq2swthtvjKqOrEEsk=", ""},
	{"myhub.azure-devices.net%2fdevices%2fedge1", "0vUJnYayG1NV0hsYwgyBH29rL0W8N+Nh2Xek9wGc7Pw=", ""},
	{"myhub.azure-devices.net/devices/edge1", "bUn82NJb0awldMDQVz5NMJu/t+FtZyuJ/ihRcTCIyUI=", ""},
	{"0ne00ABCDEF%2Fregistrations%2Fr1", "skVex+RtKTQ6X5pRwAxEJLo2whnzjWpLtqa6ZL9sY9s=", "registration"},
}

func TestVectors(t *testing.T) {
	expiry := time.Unix(2000000000, 0)
	for _, v := range vectors {
		made, err := sas.New(v.resource, expiry, v.keyName, key(t).Sign)
		if err != nil {
			t.Fatal(err)
		}
		upper := strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D").Replace(v.sig)
		want := "SharedAccessSignature sr=" + v.resource + "&sig=" + upper + "&se=2000000000"
		if v.keyName != "" {
			want += "&skn=" + v.keyName
		}
		if made != want {
			t.Errorf("New: %s, want %s", made, want)
		}
		for name, sig := range map[string]string{
			"upper-case escapes": upper,
			"lower-case escapes": strings.NewReplacer("+", "%2b", "/", "%2f", "=", "%3d").Replace(v.sig),
			"slash bare":         strings.NewReplacer("+", "%2B", "=", "%3D").Replace(v.sig),
			"not escaped":        v.sig,
		} {
			token, err := sas.Parse("SharedAccessSignature SIG=" + sig + "&se=2000000000&x=y&skn=" + v.keyName + "&sr=" + v.resource)
			if err != nil {
				t.Errorf("%s, %s: %v", v.resource, name, err)
				continue
			}
			if !token.Verify(key(t)) {
				t.Errorf("%s, %s: does not verify", v.resource, name)
			}
			if token.KeyName != v.keyName || token.Resource != v.resource || !token.Expiry.Equal(expiry) {
				t.Errorf("%s: %v", v.resource, token)
			}
			token.Resource = strings.ReplaceAll(token.Resource, "%2f", "%2F") + "x"
			if token.Verify(key(t)) || token.Verify(nil) {
				t.Errorf("%s, %s: verifies after a change", v.resource, name)
			}
		}
	}
}

func TestReencodingTheResourceBreaksTheSignature(t *testing.T) {
	token, err := sas.Parse("SharedAccessSignature sr=" + vectors[1].resource + "&sig=" + vectors[1].sig + "&se=2000000000")
	if err != nil {
		t.Fatal(err)
	}
	token.Resource = strings.ReplaceAll(token.Resource, "%2f", "%2F")
	if token.Verify(key(t)) {
		t.Error("verifies")
	}
}

func TestDerivedKey(t *testing.T) {
	digest, err := key(t).Sign([]byte("r1"))
	if got := base64.StdEncoding.EncodeToString(digest); err != nil || got != "O1eBZCsfTCkvWrmO8Rb8zpNFeq8lWa2pJLxwCFVTQWQ=" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	const secret = "c2VjcmV0c2VjcmV0"
	tests := []struct{ name, token, says string }{
		{"empty", "", "start"},
		{"no scheme", "sr=a&sig=" + secret + "&se=1", "start"},
		{"other scheme", "Bearer sr=a&sig=" + secret + "&se=1", "start"},
		{"no blank", "SharedAccessSignaturesr=a&sig=" + secret + "&se=1", "start"},
		{"two blanks", "SharedAccessSignature  sr=a&sig=" + secret + "&se=1", "no sr"},
		{"no sr", "SharedAccessSignature sig=" + secret + "&se=1", "no sr"},
		{"empty sr", "SharedAccessSignature sr=&sig=" + secret + "&se=1", "no sr"},
		{"no sig", "SharedAccessSignature sr=a&se=1", "no sig"},
		{"no se", "SharedAccessSignature sr=a&sig=" + secret, "no se"},
		{"sig no base64", "SharedAccessSignature sr=a&sig=" + secret + "!&se=1", "sig"},
		{"se no number", "SharedAccessSignature sr=a&sig=" + secret + "&se=x1", "se"},
		{"se negative", "SharedAccessSignature sr=a&sig=" + secret + "&se=-1", "se"},
		{"sr twice", "SharedAccessSignature sr=a&sr=b&sig=" + secret + "&se=1", "sr twice"},
		{"sig twice", "SharedAccessSignature sr=a&sig=" + secret + "&Sig=" + secret + "&se=1", "sig twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := sas.Parse(tt.token)
			if !errors.Is(err, sas.ErrMalformed) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v; want one about %q", err, tt.says)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("error shows the signature: %v", err)
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	for text, want := range map[string]int64{"100": 100, "100.75": 100, "99999999999999999999999": 253402300799} {
		token, err := sas.Parse("SharedAccessSignature sr=a&sig=AAAA&se=" + text)
		if err != nil || token.Expiry.Unix() != want || token.ExpiryText != text {
			t.Errorf("se=%s: %v, %v", text, token.Expiry, err)
		}
	}
	token := sas.Token{Expiry: time.Unix(1000, 0)}
	if token.Expired(time.Unix(1000+4*60, 0)) {
		t.Error("expired 4 minutes ago is refused")
	}
	if !token.Expired(time.Unix(1000+6*60, 0)) {
		t.Error("expired 6 minutes ago is accepted")
	}
}

func TestAudience(t *testing.T) {
	tests := []struct {
		name, resource string
		want           sas.Audience
		strict         bool
		lenient        bool
	}{
		{"hub", "h.net", sas.Audience{Host: "h.net"}, true, true},
		{"device, lower-case escapes", "h.net%2fdevices%2fd", sas.Audience{Host: "h.net", Device: "d"}, true, true},
		{"module, upper-case escapes", "h.net%2Fdevices%2Fd%2Fmodules%2Fm", sas.Audience{Host: "h.net", Device: "d", Module: "m"}, true, true},
		{"not encoded", "h.net/devices/d/modules/$edgeHub", sas.Audience{Host: "h.net", Device: "d", Module: "$edgeHub"}, true, true},
		{"ids encoded twice", "h.net%2Fdevices%2Fd%2Fmodules%2F%2524edgeHub", sas.Audience{Host: "h.net", Device: "d", Module: "$edgeHub"}, true, true},
		{"all encoded twice", "h.net%252fdevices%252fd%252Fmodules%252f%252524edgeHub", sas.Audience{Host: "h.net", Device: "d", Module: "$edgeHub"}, true, true},
		{"port", "h.net%3A8883%2Fdevices%2Fd", sas.Audience{Host: "h.net", Device: "d"}, true, true},
		{"scheme", "amqps%3A%2F%2Fh.net%3A5671%2Fdevices%2Fd", sas.Audience{Host: "h.net", Device: "d"}, true, true},
		{"scheme of a service", "https://h.net/", sas.Audience{Host: "h.net"}, false, true},
		{"plus in an id", "h.net/devices/a+b", sas.Audience{Host: "h.net", Device: "a+b"}, true, true},
		{"percent in an id", "h.net/devices/100%", sas.Audience{Host: "h.net", Device: "100%"}, true, true},
		{"junk behind a device", "h.net/devices/d/api-version=2016-11-14", sas.Audience{Host: "h.net", Device: "d"}, false, true},
		{"junk behind the hub", "h.net%2fmessages%2fevents", sas.Audience{Host: "h.net"}, false, true},
		{"trailing slash", "h.net/devices/d/", sas.Audience{Host: "h.net", Device: "d"}, false, true},
		{"no host", "/devices/d", sas.Audience{}, false, false},
		{"no device", "h.net/devices//modules/m", sas.Audience{}, false, false},
		{"slash in an id", "h.net%2fdevices%2fd%252fx", sas.Audience{}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			token := sas.Token{Resource: tt.resource}
			for _, read := range []struct {
				ok      bool
				options []sas.AudienceOption
			}{{tt.strict, nil}, {tt.lenient, []sas.AudienceOption{sas.AllowExtraPath}}} {
				got, err := token.Audience(read.options...)
				switch {
				case read.ok && (err != nil || got != tt.want):
					t.Errorf("%v: %+v, %v; want %+v", read.options, got, err, tt.want)
				case !read.ok && !errors.Is(err, sas.ErrAudience):
					t.Errorf("%v: %+v, %v; want ErrAudience", read.options, got, err)
				}
			}
		})
	}
}

func TestCovers(t *testing.T) {
	module := iothub.ModuleIdentity("Dev", "$edgeHub")
	tests := []struct {
		resource string
		id       iothub.Identity
		want     bool
	}{
		{"h%2fdevices%2fdev%2fmodules%2f%24edgehub", module, true},
		{"h%2fdevices%2fdev%2fmodules%2f%2524edgeHub", module, true},
		{"h/devices/dev/modules/m", module, false},
		{"h/devices/dev", module, false},
		{"h/devices/dev/modules/$edgeHub", module.Parent(), false},
		{"h/devices/dev", module.Parent(), true},
		{"h", module.Parent(), false},
		{"h", iothub.Identity{}, false},
		{"h%2Fdevices%2Fa%2541", iothub.DeviceIdentity("a%41"), true},
		{"h%2Fdevices%2Fa%252541", iothub.DeviceIdentity("a%41"), true},
	}
	for _, tt := range tests {
		if got := (sas.Token{Resource: tt.resource}).Covers(tt.id); got != tt.want {
			t.Errorf("%s covers %v: %v", tt.resource, tt.id, got)
		}
	}
}

func TestTokensRoundTrip(t *testing.T) {
	idBytes := rapid.SampledFrom([]rune("azAZ09-:.+%_#*?!(),=@$';"))
	rapid.Check(t, func(t *rapid.T) {
		id := iothub.DeviceIdentity(rapid.StringOfN(idBytes, 1, 20, -1).Draw(t, "device"))
		if rapid.Bool().Draw(t, "module") {
			id.Module = rapid.StringOfN(idBytes, 1, 20, -1).Draw(t, "module id")
		}
		k := sas.Key(rapid.SliceOfN(rapid.Byte(), 16, 64).Draw(t, "key"))
		expiry := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "expiry"), 0)
		text, err := sas.New(sas.DeviceResource("h.net", id), expiry, "", k.Sign)
		if err != nil {
			t.Fatal(err)
		}
		token, err := sas.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		a, err := token.Audience()
		if err != nil || a.Host != "h.net" || a.Identity() != id || !token.Covers(id) {
			t.Fatalf("%s: %+v, %v; want %v", text, a, err, id)
		}
		if !token.Verify(k) || !token.Expiry.Equal(expiry) {
			t.Fatalf("%s: does not verify", text)
		}
		k[0] ^= 1
		if token.Verify(k) {
			t.Fatalf("%s: verifies with another key", text)
		}
	})
}

func TestSignerErrorIsReturned(t *testing.T) {
	broken := errors.New("daemon is away")
	_, err := sas.New("r", time.Unix(1, 0), "", func([]byte) ([]byte, error) { return nil, broken })
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestKeysAndTokensOfRegistrations(t *testing.T) {
	k := key(t)
	if got := k.Derive("r1").Base64(); got != "O1eBZCsfTCkvWrmO8Rb8zpNFeq8lWa2pJLxwCFVTQWQ=" {
		t.Errorf("derived key %s", got)
	}
	if r := sas.RegistrationResource("0ne00ABCDEF", "r1"); r != "0ne00ABCDEF%2Fregistrations%2Fr1" {
		t.Errorf("resource %s", r)
	}
}

func TestSecretsNeverPrint(t *testing.T) {
	k := key(t)
	token := sas.Token{Resource: "r", Signature: []byte("0123456789abcdef"), KeyName: "n", ExpiryText: "1"}
	holder := struct {
		K sas.Key
		T sas.Token
	}{k, token}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+"\n", k)
		fmt.Fprintf(&out, verb+"\n", []sas.Key{k})
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		fmt.Fprintf(&out, verb+"\n", holder)
	}
	for _, v := range []any{k, map[string]sas.Key{"k": k}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k, "token", token, "holder", holder)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k, "token", token)
	for _, secret := range []string{"0123456789", "MDEyMzQ1Njc4", "303132", "48 49", "0x30"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q in the output:\n%s", secret, out.String())
		}
	}
	if k.Base64() != keyText {
		t.Error("Base64 does not reveal the key")
	}
}

func TestParseKeyErrorsHoldNoKey(t *testing.T) {
	for _, s := range []string{"", "c2VjcmV0!", "c2VjcmV0c"} {
		if _, err := sas.ParseKey(s); !errors.Is(err, sas.ErrKey) || (s != "" && strings.Contains(err.Error(), s)) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzToken(f *testing.F) {
	for _, v := range vectors {
		f.Add("SharedAccessSignature sr=" + v.resource + "&sig=" + v.sig + "&se=2000000000&skn=" + v.keyName)
	}
	f.Add("SharedAccessSignature sr=%&sig=+%2&se=1.")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := sas.Parse(s)
		if err != nil {
			return
		}
		strict, err := token.Audience()
		if err == nil {
			lenient, lerr := token.Audience(sas.AllowExtraPath)
			if lerr != nil || lenient != strict {
				t.Fatalf("%q: strict %+v, lenient %+v, %v", s, strict, lenient, lerr)
			}
			if strict.Device != "" && !token.Covers(strict.Identity()) {
				t.Fatalf("%q: does not cover its own audience %+v", s, strict)
			}
		}
		if token.Verify([]byte("key")) {
			t.Fatalf("%q: verifies", s)
		}
		token.Expired(time.Unix(0, 0))
	})
}
