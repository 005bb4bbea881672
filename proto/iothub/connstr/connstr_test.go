package connstr_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

const keyText = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

var key = sas.Key("0123456789abcdef0123456789abcdef")

func TestParse(t *testing.T) {
	const sig = "SharedAccessSignature sr=h%2fdevices%2fd&sig=AAAA&se=1"
	tests := []struct {
		name, in string
		want     connstr.String
		id       iothub.Identity
	}{
		{"device", "HostName=h.net;DeviceId=d;SharedAccessKey=" + keyText,
			connstr.String{HostName: "h.net", DeviceID: "d", SharedAccessKey: key}, iothub.DeviceIdentity("d")},
		{"module behind a gateway, any order, empty end", "SharedAccessKey=" + keyText + ";GatewayHostName=gw;ModuleId=$edgeHub;DeviceId=d;HostName=h.net;",
			connstr.String{HostName: "h.net", DeviceID: "d", ModuleID: "$edgeHub", SharedAccessKey: key, GatewayHostName: "gw"}, iothub.ModuleIdentity("d", "$edgeHub")},
		{"certificate", "HostName=h.net;DeviceId=d;x509=true", connstr.String{HostName: "h.net", DeviceID: "d", X509: true}, iothub.DeviceIdentity("d")},
		{"certificate, other case", "HostName=h.net;DeviceId=d;X509=True", connstr.String{HostName: "h.net", DeviceID: "d", X509: true}, iothub.DeviceIdentity("d")},
		{"token", "HostName=h.net;DeviceId=d;SharedAccessSignature=" + sig,
			connstr.String{HostName: "h.net", DeviceID: "d", SharedAccessSignature: sig}, iothub.DeviceIdentity("d")},
		{"policy", "HostName=h.net;SharedAccessKeyName=iothubowner;SharedAccessKey=" + keyText,
			connstr.String{HostName: "h.net", SharedAccessKeyName: "iothubowner", SharedAccessKey: key}, iothub.Identity{}},
		{"id with =", "HostName=h.net;DeviceId=a=b;x509=true", connstr.String{HostName: "h.net", DeviceID: "a=b", X509: true}, iothub.DeviceIdentity("a=b")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := connstr.Parse(tt.in)
			if err != nil || !reflect.DeepEqual(got, tt.want) || got.Identity() != tt.id {
				t.Fatalf("%v, %v", got, err)
			}
			again, err := connstr.Parse(got.Reveal())
			if err != nil || !reflect.DeepEqual(got, again) {
				t.Errorf("Reveal: %v, %v", again, err)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, in, says string }{
		{"empty", "", "HostName"},
		{"no host", "DeviceId=d;SharedAccessKey=" + keyText, "no HostName"},
		{"nobody", "HostName=h;SharedAccessKey=" + keyText, "DeviceId"},
		{"no credential", "HostName=h;DeviceId=d", "exactly one"},
		{"two credentials", "HostName=h;DeviceId=d;x509=true;SharedAccessKey=" + keyText, "exactly one"},
		{"x509=false is none", "HostName=h;DeviceId=d;x509=false", "exactly one"},
		{"policy without key", "HostName=h;SharedAccessKeyName=n", "no SharedAccessKey"},
		{"module without device", "HostName=h;ModuleId=m;SharedAccessKeyName=n;SharedAccessKey=" + keyText, "without DeviceId"},
		{"key no base64", "HostName=h;DeviceId=d;SharedAccessKey=" + keyText + "!", "field 3: SharedAccessKey"},
		{"unknown name", "HostName=h;" + keyText + "=x;DeviceId=d", "field 2: unknown name"},
		{"no equals sign", "HostName=h;" + strings.TrimRight(keyText, "=") + ";DeviceId=d", "field 2 has no"},
		{"wrong case", "hostname=h;DeviceId=d;SharedAccessKey=" + keyText, "field 1: unknown name"},
		{"twice", "HostName=h;HostName=g;DeviceId=d", "field 2: HostName again"},
		{"empty value", "HostName=;DeviceId=d", "field 1: HostName is empty"},
		{"bad id", "HostName=h;DeviceId=" + keyText + "/;x509=true", "field 2: DeviceId"},
		{"bad x509", "HostName=h;DeviceId=d;x509=" + keyText, "x509 is neither"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := connstr.Parse(tt.in)
			if !errors.Is(err, connstr.ErrMalformed) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v; want one about %q", err, tt.says)
			}
			if strings.Contains(err.Error(), keyText[:10]) {
				t.Errorf("error shows a secret: %v", err)
			}
		})
	}
}

func TestSecretsNeverPrint(t *testing.T) {
	s := connstr.String{HostName: "h", DeviceID: "d", SharedAccessKey: key, SharedAccessSignature: "secretsecret"}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", &s)
	}
	if err := json.NewEncoder(&out).Encode(s); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "s", s)
	for _, secret := range []string{"0123456789", keyText[:10], "secretsecret", "736563", "303132"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q in the output:\n%s", secret, out.String())
		}
	}
	if !strings.Contains(out.String(), "HostName=h;DeviceId=d;SharedAccessKey=***") {
		t.Errorf("not readable: %s", out.String())
	}
}

func FuzzParse(f *testing.F) {
	f.Add("HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey=" + keyText + ";GatewayHostName=g")
	f.Add("HostName=h;SharedAccessKeyName=n;SharedAccessKey=" + keyText)
	f.Add(";;=;x509=true")
	f.Fuzz(func(t *testing.T, in string) {
		s, err := connstr.Parse(in)
		if err != nil {
			return
		}
		again, err := connstr.Parse(s.Reveal())
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("%q: %v, then %v, %v", in, s, again, err)
		}
	})
}
