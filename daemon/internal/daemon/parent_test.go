package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// parentHub is the edgeHub of a parent, as far as the daemon below it can see: it knows
// one device by its key, and answers for the registry.
type parentHub struct {
	*httptest.Server
	key sas.Key

	mu      sync.Mutex
	device  string
	hub     string
	status  int // answered in place of all else
	calls   []string
	modules map[string]rest.Module
}

func newParent(t *testing.T, hub, device string) *parentHub {
	t.Helper()
	key, err := sas.ParseKey(deviceKey)
	if err != nil {
		t.Fatal(err)
	}
	p := &parentHub{key: key, hub: hub, device: device, modules: map[string]rest.Module{"$edgeAgent": {ModuleID: "$edgeAgent", GenerationID: "9"}}}
	p.Server = httptest.NewTLSServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *parentHub) address() string { return strings.TrimPrefix(p.URL, "https://") }

func (p *parentHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, r.Method+" "+r.URL.Path)
	token, err := sas.Parse(r.Header.Get("Authorization"))
	var owner string
	if err == nil {
		if a, err := token.Audience(); err == nil {
			owner = a.Host + "/" + a.Device
		}
	}
	name := strings.TrimPrefix(r.URL.Path, "/devices/"+p.device+"/modules/")
	switch {
	case p.status != 0:
		w.WriteHeader(p.status)
	case err != nil || !token.Verify(p.key) || owner != p.hub+"/"+p.device:
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprint(w, `{"errorMessage":"the caller may not do this, or cannot prove who it is"}`)
	case r.Method == http.MethodPut:
		var m rest.Module
		if json.NewDecoder(r.Body).Decode(&m) != nil || m.ModuleID != name {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		m.GenerationID = "9"
		p.modules[name] = m
		_ = json.NewEncoder(w).Encode(m)
	default:
		_ = json.NewEncoder(w).Encode(p.modules[name])
	}
}

// below is a device that has no way to the hub but through the parent.
func (p *parentHub) below(t *testing.T, d *device) {
	t.Helper()
	d.registry, d.parent = nil, p.address()
	if d.top == "" { // all test servers have one root
		d.trust(t, p.Server)
	}
}

func TestDeviceBelowAParent(t *testing.T) {
	for name, c := range map[string]struct {
		hub, device string
		make        func(t *testing.T) *device
	}{
		"by its connection string": {"hub.example.net", "edge1", newDevice},
		"assigned by the provisioning service": {"hub-a.test", "dev-1", func(t *testing.T) *device {
			c := newDPS(t)
			return dpsDevice(t, c)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := c.make(t)
			p := newParent(t, c.hub, c.device)
			p.below(t, d)
			stop := d.run(t)
			d.until(t, "edgeAgent", runtime.StatusRunning)
			spec, _ := d.engine.Spec("edgeAgent")
			for _, want := range []string{"IOTEDGE_GATEWAYHOSTNAME=" + p.address(), "IOTEDGE_IOTHUBHOSTNAME=" + c.hub, "IOTEDGE_DEVICEID=" + c.device, "EdgeDeviceHostName=gateway.local"} {
				if !slices.Contains(spec.Options.Env, want) {
					t.Errorf("no %s in %q", want, spec.Options.Env)
				}
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if m := p.modules["$edgeAgent"]; m.Authentication == nil || m.Authentication.SymmetricKey.PrimaryKey == "" {
				t.Errorf("the agent's key is not registered: %v", p.calls)
			}
		})
	}
}

func TestParentThatDoesNotHelpIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, d *device, p *parentHub)
		text   string
	}{
		"unreachable":                   {func(_ *testing.T, _ *device, p *parentHub) { p.Close() }, "connection refused"},
		"with an unknown root":          {func(_ *testing.T, d *device, _ *parentHub) { d.top = "" }, "certificate signed by unknown authority"},
		"does not know the device":      {func(_ *testing.T, _ *device, p *parentHub) { p.device = "edge2" }, "registry refused access"},
		"has no way to the cloud":       {func(_ *testing.T, _ *device, p *parentHub) { p.status = http.StatusInternalServerError }, "registry not reachable"},
		"is asked for a module in vain": {func(_ *testing.T, _ *device, p *parentHub) { p.status = http.StatusNotFound }, "no such module identity"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			p := newParent(t, "hub.example.net", "edge1")
			p.below(t, d)
			d.more = "[watchdog]\nmax_retries = 0\n"
			c.change(t, d, p)
			stop := d.run(t)
			if err := d.ended(t, stop); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("ended with %v, want %q:\n%s", err, c.text, &d.log)
			}
			if _, ok := d.engine.Spec("edgeAgent"); ok {
				t.Error("an agent was made without an identity")
			}
		})
	}
}

func TestAnotherParentIsAnotherDevice(t *testing.T) {
	d := newDevice(t)
	first := newParent(t, "hub.example.net", "edge1")
	first.below(t, d)
	stop := d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	second := newParent(t, "hub.example.net", "edge1")
	second.below(t, d)
	stop = d.run(t)
	d.until(t, "edgeAgent", runtime.StatusRunning)
	spec, _ := d.engine.Spec("edgeAgent")
	if !slices.Contains(spec.Options.Env, "IOTEDGE_GATEWAYHOSTNAME="+second.address()) {
		t.Errorf("the agent looks for its parent elsewhere: %q", spec.Options.Env)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
