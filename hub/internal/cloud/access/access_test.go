package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // thumbprints
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

const host = "hub.example.com"

var now = time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)

// world has: edge top, edge mid below it, leaf below mid with a module; dev with
// modules m (keys) and n (none); off, disabled; cert, with a thumbprint.
type world struct {
	t        *testing.T
	r        *registry.Registry
	policies access.Policies
	check    *access.Checker
	leafCert *x509.Certificate
	ca       *certtest.Authority
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := &world{t: t, leafCert: selfSigned(t)}
	if w.r, err = registry.Open(s, twin.NewStore(s), nil, nil); err != nil {
		t.Fatal(err)
	}
	if w.policies, err = access.LoadPolicies(filepath.Join(t.TempDir(), "p"), false); err != nil {
		t.Fatal(err)
	}
	w.ca = certtest.New(t, "ca", now, nil)
	pool := x509.NewCertPool()
	pool.AddCert(w.ca.Cert)
	w.check = access.New(w.r, access.Options{Hosts: []string{host, "other.name"}, Policies: w.policies, Now: func() time.Time { return now },
		Authorities: func() *x509.CertPool { return pool }})
	yes, off := true, rest.Disabled
	top := w.device(registry.DeviceChange{DeviceID: "top", Edge: &yes})
	mid := w.device(registry.DeviceChange{DeviceID: "mid", Edge: &yes, ParentScopes: &[]string{top.DeviceScope}})
	w.device(registry.DeviceChange{DeviceID: "leaf", DeviceScope: &mid.DeviceScope})
	w.device(registry.DeviceChange{DeviceID: "dev"})
	w.device(registry.DeviceChange{DeviceID: "off", Status: &off})
	sum := sha256.Sum256(w.leafCert.Raw)
	w.device(registry.DeviceChange{DeviceID: "cert", Authentication: &rest.Authentication{
		X509Thumbprint: rest.X509Thumbprint{SecondaryThumbprint: rest.Text(hex.EncodeToString(sum[:]))}}})
	sum1 := sha1.Sum(w.leafCert.Raw) //nolint:gosec // as above
	w.device(registry.DeviceChange{DeviceID: "cert1", Edge: &yes, Authentication: &rest.Authentication{
		X509Thumbprint: rest.X509Thumbprint{PrimaryThumbprint: rest.Text(hex.EncodeToString(sum1[:]))}}})
	signed := &rest.Authentication{Type: rest.AuthCertificate}
	w.device(registry.DeviceChange{DeviceID: "signed", Authentication: signed})
	w.device(registry.DeviceChange{DeviceID: "offsigned", Authentication: signed, Status: &off})
	w.module(registry.ModuleChange{ID: iothub.ModuleIdentity("signed", "m"), Authentication: signed}, registry.Absent)
	w.module(registry.ModuleChange{ID: iothub.ModuleIdentity("signed", "t"), Authentication: &rest.Authentication{
		X509Thumbprint: rest.X509Thumbprint{PrimaryThumbprint: rest.Text(hex.EncodeToString(sum[:]))}}}, registry.Absent)
	for _, id := range []iothub.Identity{{Device: "dev", Module: "m"}, {Device: "leaf", Module: "m"}} {
		w.module(registry.ModuleChange{ID: id}, registry.Absent)
	}
	for _, e := range []string{"top", "mid"} {
		w.module(registry.ModuleChange{ID: iothub.ModuleIdentity(e, "$edgeHub"), Authentication: rest.SAS("", "")}, registry.Any)
	}
	w.module(registry.ModuleChange{ID: iothub.ModuleIdentity("dev", "n"), Authentication: &rest.Authentication{Type: rest.AuthNone}}, registry.Absent)
	return w
}

func (w *world) device(c registry.DeviceChange) rest.Device {
	w.t.Helper()
	d, err := w.r.PutDevice(w.t.Context(), c, registry.Absent)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) module(c registry.ModuleChange, m registry.Match) {
	w.t.Helper()
	if _, err := w.r.PutModule(w.t.Context(), c, m); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) key(name string, secondary bool) sas.Key {
	w.t.Helper()
	id, err := iothub.ParseIdentity(name)
	if err != nil {
		w.t.Fatal(err)
	}
	d, err := w.r.Device(id.Device)
	auth := d.Authentication
	if id.IsModule() {
		var m rest.Module
		m, err = w.r.Module(id)
		auth = m.Authentication
	}
	if err != nil {
		w.t.Fatal(err)
	}
	text := auth.SymmetricKey.PrimaryKey
	if secondary {
		text = auth.SymmetricKey.SecondaryKey
	}
	k, err := sas.ParseKey(text.Reveal())
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *world) token(resource string, expiry time.Time, policy string, key sas.Key) string {
	w.t.Helper()
	s, err := sas.New(resource, expiry, policy, key.Sign)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// own is the token of an identity for itself.
func (w *world) own(name string) string {
	id, err := iothub.ParseIdentity(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.token(sas.DeviceResource(host, id), now.Add(time.Hour), "", w.key(name, false))
}

func (w *world) policy(name string) string {
	return w.token(sas.HubResource(host), now.Add(time.Hour), name, w.policies[name].Primary)
}

func selfSigned(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestConnect(t *testing.T) {
	w := newWorld(t)
	hour := now.Add(time.Hour)
	dev := iothub.DeviceIdentity("dev")
	devResource := sas.DeviceResource(host, dev)
	other := selfSigned(t)
	const device, module, hub = `"scope":"device"`, `"scope":"module"`, `"scope":"hub"`
	tests := map[string]struct {
		id     string
		token  string
		chain  string
		peer   *x509.Certificate
		method string // part of the auth method; "" for refused
	}{
		"own key":                          {"dev", w.own("dev"), "", nil, device},
		"secondary key":                    {"dev", w.token(devResource, hour, "", w.key("dev", true)), "", nil, device},
		"lower-case escapes":               {"dev", w.token(strings.ToLower(devResource), hour, "", w.key("dev", false)), "", nil, device},
		"plain resource":                   {"dev", w.token(host+"/devices/dev", hour, "", w.key("dev", false)), "", nil, device},
		"another name of the hub":          {"dev", w.token("OTHER.name%2Fdevices%2Fdev", hour, "", w.key("dev", false)), "", nil, device},
		"within the skew":                  {"dev", w.token(devResource, now.Add(-4*time.Minute), "", w.key("dev", false)), "", nil, device},
		"expired":                          {"dev", w.token(devResource, now.Add(-6*time.Minute), "", w.key("dev", false)), "", nil, ""},
		"wrong key":                        {"dev", w.token(devResource, hour, "", sas.Key("wrong")), "", nil, ""},
		"key of another device":            {"dev", w.token(devResource, hour, "", w.key("leaf", false)), "", nil, ""},
		"token of another device":          {"dev", w.own("leaf"), "", nil, ""},
		"another hub":                      {"dev", w.token(sas.DeviceResource("evil.example.com", dev), hour, "", w.key("dev", false)), "", nil, ""},
		"no credentials":                   {"dev", "", "", nil, ""},
		"no token at all":                  {"dev", "password", "", nil, ""},
		"unknown device":                   {"ghost", w.own("dev"), "", nil, ""},
		"disabled device":                  {"off", w.own("off"), "", nil, ""},
		"module key":                       {"dev/m", w.own("dev/m"), "", nil, module},
		"module with the device's key":     {"dev/m", w.own("dev"), "", nil, device},
		"module named, device's key":       {"dev/m", w.token(sas.DeviceResource(host, iothub.ModuleIdentity("dev", "m")), hour, "", w.key("dev", false)), "", nil, ""},
		"device with a module's key":       {"dev", w.own("dev/m"), "", nil, ""},
		"module without keys":              {"dev/n", w.own("dev/m"), "", nil, ""},
		"module without keys, by device":   {"dev/n", w.own("dev"), "", nil, device},
		"unknown module":                   {"dev/ghost", w.own("dev"), "", nil, ""},
		"owner":                            {"dev", w.policy("iothubowner"), "", nil, hub},
		"policy device":                    {"dev/m", w.policy("device"), "", nil, hub},
		"policy without the right":         {"dev", w.policy("service"), "", nil, ""},
		"unknown policy":                   {"dev", w.token(sas.HubResource(host), hour, "nobody", sas.Key("x")), "", nil, ""},
		"policy with a wrong key":          {"dev", w.token(sas.HubResource(host), hour, "device", sas.Key("x")), "", nil, ""},
		"policy for this device":           {"dev", w.token(devResource, hour, "device", w.policies["device"].Secondary), "", nil, hub},
		"policy for another device":        {"leaf", w.token(devResource, hour, "device", w.policies["device"].Primary), "", nil, ""},
		"thumbprint":                       {"cert", "", "", w.leafCert, `"type":"x509"`},
		"SHA-1 thumbprint":                 {"cert1", "", "", w.leafCert, `"type":"x509"`},
		"another certificate":              {"cert", "", "", other, ""},
		"certificate for a device of keys": {"dev", "", "", w.leafCert, ""},
		"signed":                           {"signed", "", "", w.ca.Leaf(t, "signed", now), `"type":"x509"`},
		"signed for another":               {"signed", "", "", w.ca.Leaf(t, "dev", now), ""},
		"signed by another":                {"signed", "", "", certtest.New(t, "ca", now, nil).Leaf(t, "signed", now), ""},
		"signed, but disabled":             {"offsigned", "", "", w.ca.Leaf(t, "offsigned", now), ""},
		"signed, registered for keys":      {"dev", "", "", w.ca.Leaf(t, "dev", now), ""},
		"signed, registered by thumbprint": {"cert", "", "", w.ca.Leaf(t, "cert", now), ""},
		"signed, has ended":                {"signed", "", "", w.ca.Leaf(t, "signed", now, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), ""},
		"signed module":                    {"signed/m", "", "", w.ca.Leaf(t, "signed/m", now), module},
		"module with its device's":         {"signed/m", "", "", w.ca.Leaf(t, "signed", now), ""},
		"device with its module's":         {"signed", "", "", w.ca.Leaf(t, "signed/m", now), ""},
		"module by thumbprint":             {"signed/t", "", "", w.leafCert, module},
		"token for a device of X.509":      {"cert", w.token(sas.DeviceResource(host, iothub.DeviceIdentity("cert")), hour, "", w.key("dev", false)), "", nil, ""},

		"for a leaf":                   {"leaf", w.own("mid/$edgeHub"), "leaf;mid", nil, module},
		"for a leaf's module":          {"leaf/m", w.own("mid/$edgeHub"), "leaf/m;leaf;mid", nil, module},
		"for own module":               {"mid/$edgeAgent", w.own("mid/$edgeHub"), "mid/$edgeAgent;mid", nil, module},
		"for a leaf two levels down":   {"leaf", w.own("top/$edgeHub"), "leaf;mid;top", nil, module},
		"claimed chain does not count": {"leaf", w.own("top/$edgeHub"), "leaf;ghost;top", nil, module},
		"for a stranger":               {"dev", w.own("mid/$edgeHub"), "dev;mid", nil, ""},
		"upwards":                      {"top", w.own("mid/$edgeHub"), "top;mid", nil, ""},
		"chain of another target":      {"leaf", w.own("mid/$edgeHub"), "dev;mid", nil, ""},
		"actor with a device token":    {"leaf", w.own("mid"), "leaf;mid", nil, ""},
		"actor's token without chain":  {"leaf", w.own("mid/$edgeHub"), "", nil, ""},
		"actor is no edge device":      {"leaf/m", w.own("leaf/m"), "leaf/m;leaf", nil, ""},
		"chain with a policy":          {"leaf", w.policy("iothubowner"), "leaf;mid", nil, ""},
		"chain with a certificate":     {"leaf", "", "leaf;mid", w.leafCert, ""},
		"chain of one":                 {"leaf", w.own("leaf"), "leaf", nil, device},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			id, err := iothub.ParseIdentity(tt.id)
			if err != nil {
				t.Fatal(err)
			}
			l := head.Login{Identity: id, Token: tt.token, AuthChain: tt.chain}
			if tt.peer != nil {
				l.Peer = []*x509.Certificate{tt.peer}
			}
			g, err := w.check.Connect(l)
			if tt.method == "" {
				if !errors.Is(err, access.ErrRefused) {
					t.Fatalf("admitted: %+v, %v", g, err)
				}
				if strings.Contains(err.Error(), "sig=") {
					t.Errorf("signature in %v", err)
				}
				return
			}
			if err != nil || !strings.Contains(g.Method, tt.method) || g.Expires.Before(now) {
				t.Errorf("%+v, %v", g, err)
			}
			if g.Actor.IsZero() == (tt.chain != "" && strings.Contains(tt.chain, ";")) {
				t.Errorf("actor %v", g.Actor)
			}
		})
	}
}

func TestEverybodyInTheChainMustBeEnabled(t *testing.T) {
	w := newWorld(t)
	l := head.Login{Identity: iothub.DeviceIdentity("leaf"), Token: w.own("top/$edgeHub"), AuthChain: "leaf;mid;top"}
	if _, err := w.check.Connect(l); err != nil {
		t.Fatal(err)
	}
	off := rest.Disabled
	if _, err := w.r.PutDevice(t.Context(), registry.DeviceChange{DeviceID: "mid", Status: &off}, registry.Any); err != nil {
		t.Fatal(err)
	}
	if _, err := w.check.Connect(l); !errors.Is(err, access.ErrRefused) {
		t.Errorf("%v", err)
	}
}

func TestRequest(t *testing.T) {
	w := newWorld(t)
	lower := w.token(strings.ToLower(sas.DeviceResource(host, iothub.ModuleIdentity("mid", "$edgeHub"))), now.Add(time.Hour), "", w.key("mid/$edgeHub", false))
	tests := map[string]struct {
		header string
		peer   []*x509.Certificate
		path   string
		want   access.Caller
		fails  bool
	}{
		"policy":                 {header: w.policy("service"), path: "dev", want: access.Caller{Rights: access.ServiceConnect}},
		"device":                 {header: w.own("dev"), path: "dev", want: access.Caller{Identity: iothub.DeviceIdentity("dev")}},
		"device elsewhere":       {header: w.own("dev"), path: "mid", want: access.Caller{Identity: iothub.DeviceIdentity("dev")}},
		"module in lower case":   {header: lower, path: "mid", want: access.Caller{Identity: iothub.ModuleIdentity("mid", "$edgeHub")}},
		"certificate":            {peer: []*x509.Certificate{w.leafCert}, path: "cert1", want: access.Caller{Identity: iothub.DeviceIdentity("cert1")}},
		"certificate of another": {peer: []*x509.Certificate{w.leafCert}, path: "dev", fails: true},
		"nothing":                {path: "dev", fails: true},
		"bearer":                 {header: "Bearer x", path: "dev", fails: true},
		"garbage":                {header: "SharedAccessSignature x", path: "dev", fails: true},
		"disabled":               {header: w.own("off"), path: "off", fails: true},
		"hub without a policy":   {header: w.token(sas.HubResource(host), now.Add(time.Hour), "", w.policies["service"].Primary), path: "dev", fails: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := w.check.Request(tt.header, tt.peer, iothub.DeviceIdentity(tt.path))
			if errors.Is(err, access.ErrRefused) != tt.fails || got != tt.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestPoliciesAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policies.json")
	first, err := access.LoadPolicies(path, false)
	if err != nil {
		t.Fatal(err)
	}
	again, err := access.LoadPolicies(path, false)
	if err != nil || len(again) != 5 {
		t.Fatalf("%d policies, %v", len(again), err)
	}
	for name, p := range first {
		if again[name].Primary.Base64() != p.Primary.Base64() || p.Primary.Base64() == p.Secondary.Base64() {
			t.Errorf("keys of %s", name)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := access.LoadPolicies(path, false); err == nil {
		t.Error("damaged file accepted")
	}
}

func TestWellKnownKeysAreTheSameEverywhere(t *testing.T) {
	var keys []string
	for range 2 {
		p, err := access.LoadPolicies(filepath.Join(t.TempDir(), "p"), true)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, p[access.Owner].Primary.Base64())
	}
	if keys[0] != keys[1] {
		t.Error("they differ")
	}
}

func TestPoliciesThatMayConnectAllDevices(t *testing.T) {
	w := newWorld(t)
	hour := now.Add(time.Hour)
	for name, tt := range map[string]struct {
		token string
		ok    bool
	}{
		"owner":       {w.policy("iothubowner"), true},
		"device":      {w.policy("device"), true},
		"service":     {w.policy("service"), false},
		"wrong key":   {w.token(sas.HubResource(host), hour, "device", sas.Key("x")), false},
		"unknown":     {w.token(sas.HubResource(host), hour, "nobody", w.policies["device"].Primary), false},
		"one device":  {w.token(sas.DeviceResource(host, iothub.DeviceIdentity("dev")), hour, "device", w.policies["device"].Primary), false},
		"a device's":  {w.own("dev"), false},
		"expired":     {w.token(sas.HubResource(host), now.Add(-time.Hour), "device", w.policies["device"].Primary), false},
		"not a token": {"x", false},
	} {
		if err := w.check.ConnectPolicy(tt.token); (err == nil) != tt.ok || err != nil && !errors.Is(err, access.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
