package edge_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// registry is the cloud's scope API: answers by auth chain and continuation link.
type registry struct {
	pages  map[string]string
	single map[string]string
	status int // of single answers, if not 0
	asked  []string
}

func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		AuthChain        string `json:"authChain"`
		ContinuationLink string `json:"continuationLink"`
		Target           string `json:"targetDeviceId"`
		TargetModule     string `json:"targetModuleId"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Header.Get("Authorization") != "token" ||
		!strings.HasPrefix(r.URL.Path, "/devices/edge/modules/$edgeHub/") {
		http.Error(w, "no", http.StatusTeapot)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/getDeviceAndModuleOnBehalfOf") {
		if g.status != 0 {
			http.Error(w, "{}", g.status)
			return
		}
		fmt.Fprint(w, g.single[in.Target+"/"+in.TargetModule])
		return
	}
	key := in.AuthChain + "|" + in.ContinuationLink
	g.asked = append(g.asked, key)
	page, ok := g.pages[key]
	if !ok {
		http.Error(w, `{"ErrorMessage":"unknown chain"}`, http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, page)
}

func source(t *testing.T, g *registry) scope.Source {
	t.Helper()
	server := httptest.NewTLSServer(g)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c, err := rest.New(rest.Options{
		HubName: "example.com", RootCAs: roots, Attempts: 1,
		Authorize: func(context.Context) (string, error) { return "token", nil },
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return edge.CloudScope(c, "edge")
}

const aKey = `"authentication":{"type":"sas","symmetricKey":{"primaryKey":"AAAA","secondaryKey":null}}`

func TestScopeIsListedLevelByLevel(t *testing.T) {
	g := &registry{pages: map[string]string{
		"edge|": `{"devices":[{"deviceId":"edge","capabilities":{"iotEdge":true},"deviceScope":"s0",` + aKey + `},
		           {"deviceId":"bad id",` + aKey + `}],"modules":[],"continuationLink":"p2"}`,
		"edge|p2": `{"devices":[{"deviceId":"leaf","status":"disabled","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"AB","secondaryThumbprint":null}}},
		             {"deviceId":"ca","authentication":{"type":"certificateAuthority"}},{"deviceId":"odd","authentication":{"type":"sas","symmetricKey":{"primaryKey":"!!"}}}],
		             "modules":[{"deviceId":"edge","moduleId":"m","generationId":"7",` + aKey + `}],"continuationLink":"p3"}`,
		"edge|p3": `{"devices":[{"deviceId":"child","capabilities":{"iotEdge":true},"parentScopes":["s0"],"deviceScope":"s1",` + aKey + `}],"modules":null,"continuationLink":""}`,
		"child;edge|": `{"devices":[{"deviceId":"child","capabilities":{"iotEdge":true},"deviceScope":"s1",` + aKey + `},
		                 {"deviceId":"below","deviceScope":"s1",` + aKey + `}],"modules":[]}`,
	}}
	list, err := source(t, g).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range list {
		got[e.ID.String()] = fmt.Sprint(e.Auth, " ", e.Enabled, " ", e.Edge, " ", e.GenerationID, " ", e.Thumbprints, len(e.Primary), len(e.Secondary))
	}
	want := map[string]string{
		"edge": "sas true true  [] 3 0", "edge/m": "sas true false 7 [] 3 0", "leaf": "selfSigned false false  [AB] 0 0",
		"ca": "certificateAuthority true false  [] 0 0", "odd": "none true false  [] 0 0", "child": "sas true true  [] 3 0", "below": "sas true false  [] 3 0",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if !slices.Equal(g.asked, []string{"edge|", "edge|p2", "edge|p3", "child;edge|"}) {
		t.Errorf("asked %v", g.asked)
	}
	delete(g.pages, "child;edge|")
	if _, err := source(t, g).List(t.Context()); err == nil {
		t.Error("a level that is missing is no error, and all below would be forgotten")
	}
}

func TestOneIdentityOfTheScope(t *testing.T) {
	g := &registry{single: map[string]string{
		"edge/m": `{"devices":[{"deviceId":"edge",` + aKey + `}],"modules":[{"deviceId":"edge","moduleId":"m",` + aKey + `}]}`,
		"other/": `{"devices":[],"modules":[]}`,
	}}
	s := source(t, g)
	e, err := s.Get(t.Context(), iothub.ModuleIdentity("edge", "m"), "")
	if err != nil || e.ID != iothub.ModuleIdentity("edge", "m") || e.Auth != scope.SAS {
		t.Errorf("%+v %v", e, err)
	}
	if _, err := s.Get(t.Context(), iothub.DeviceIdentity("other"), ""); !errors.Is(err, scope.ErrUnknown) {
		t.Errorf("not in the answer: %v", err)
	}
	for status, kind := range map[int]error{
		400: scope.ErrUnknown, 404: scope.ErrUnknown, 401: scope.ErrForbidden, 403: scope.ErrForbidden, 405: nil, 429: nil, 500: nil, 503: nil,
	} {
		g.status = status
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := s.Get(ctx, leaf, "child;edge")
		if err == nil || errors.Is(err, scope.ErrUnknown) != (kind == scope.ErrUnknown) || errors.Is(err, scope.ErrForbidden) != (kind == scope.ErrForbidden) {
			t.Errorf("status %d: %v", status, err)
		}
		cancel()
	}
}
