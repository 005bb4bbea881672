package edge_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

var (
	child    = iothub.DeviceIdentity("child")
	childHub = iothub.ModuleIdentity("child", iothub.HubModule)
	below    = iothub.DeviceIdentity("below")
)

// withChild puts an edge device below the one of the rig, and a leaf below that.
func withChild(r *rig, _ *edge.Options) {
	for _, e := range []scope.Entry{
		{ID: child, Edge: true, DeviceScope: "scope-of-child", ParentScopes: []string{"scope-of-edge"}},
		{ID: childHub},
		{ID: below, DeviceScope: "scope-of-child"},
	} {
		e.Enabled, e.Auth, e.Primary = true, scope.SAS, key
		r.dir.entries[e.ID] = e
	}
}

// onBehalf is the login of the child's hub for somebody.
func onBehalf(t *testing.T, id iothub.Identity) head.Login {
	l := login(t, childHub, key, 3*time.Hour)
	l.Identity, l.AuthChain = id, id.String()+";child"
	return l
}

func TestChildGatewaySpeaksForItsClients(t *testing.T) {
	within(t, func(r *rig, o *edge.Options) {
		withChild(r, o)
		routed(toCloud)(r, o)
	}, func(t *testing.T, r *rig) {
		r.connect(childHub)
		d, err := r.try(onBehalf(t, below))
		if err != nil {
			t.Fatal(err)
		}
		d.session.Subscribe(head.Methods)
		d.send("", "one")
		time.Sleep(time.Second)
		synctest.Wait()
		if got := r.cloud.got(below); got != "one" {
			t.Errorf("the cloud got %q", got)
		}
		if !r.cloud.wants(below).Methods {
			t.Error("no methods are asked for in the cloud")
		}
		if _, err := r.try(onBehalf(t, leaf)); !errors.Is(err, head.ErrUnauthorized) {
			t.Errorf("a leaf that is not below the child: %v", err)
		}
	})
}

func TestClientsBelowADisabledChildAreDropped(t *testing.T) {
	within(t, withChild, func(t *testing.T, r *rig) {
		d, err := r.try(onBehalf(t, below))
		if err != nil {
			t.Fatal(err)
		}
		stays := r.connect(leaf)
		r.dir.change(func() {
			e := r.dir.entries[child]
			e.Enabled = false
			r.dir.entries[child] = e
		})
		time.Sleep(3 * time.Minute)
		if _, err := r.cache.Refresh(t.Context(), child); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !errors.Is(d.why(), head.ErrExpired) {
			t.Errorf("ended by %v", d.why())
		}
		if stays.why() != nil {
			t.Errorf("another client: %v", stays.why())
		}
	})
}

func names(r rest.ScopeResult) string {
	var list []string
	for _, d := range r.Devices {
		list = append(list, fmt.Sprint(d.DeviceID, " ", d.Status, " ", d.IsEdge(), " ", d.Authentication.Type))
	}
	for _, m := range r.Modules {
		list = append(list, m.DeviceID+"/"+m.ModuleID)
	}
	return strings.Join(list, ", ")
}

func TestChildReadsItsScope(t *testing.T) {
	within(t, func(r *rig, o *edge.Options) {
		withChild(r, o)
		r.dir.entries[iothub.DeviceIdentity("off")] = scope.Entry{ID: iothub.DeviceIdentity("off"), Auth: scope.SAS, Primary: key, DeviceScope: "scope-of-child"}
	}, func(t *testing.T, r *rig) {
		got, err := r.hub.Members("child", "child")
		if err != nil || names(got) != "child enabled true sas, below enabled false sas, off disabled false sas, child/$edgeHub" {
			t.Errorf("%s, %v", names(got), err)
		}
		// What goes out comes in again on the other side.
		raw, err := json.Marshal(got)
		if err != nil || !strings.Contains(string(raw), `"primaryKey":"`+key.Base64()+`"`) {
			t.Errorf("%v", err)
		}
		for target, actor := range map[string]string{"edge": "child", "leaf": "child", "child": "edge", "nobody": "child"} {
			if _, err := r.hub.Members(actor, target); !errors.Is(err, head.ErrUnauthorized) {
				t.Errorf("%s lists %s: %v", actor, target, err)
			}
		}
		for target, want := range map[iothub.Identity]string{
			below: "below enabled false sas", childHub: "child enabled true sas, child/$edgeHub", iothub.DeviceIdentity("off"): "off disabled false sas",
		} {
			if got, err := r.hub.Member(t.Context(), "child", target); err != nil || names(got) != want {
				t.Errorf("%s: %s, %v", target, names(got), err)
			}
		}
		for target, want := range map[iothub.Identity]error{
			leaf: head.ErrUnauthorized, iothub.DeviceIdentity("nobody"): head.ErrNotFound, mod: head.ErrUnauthorized,
		} {
			if _, err := r.hub.Member(t.Context(), "child", target); !errors.Is(err, want) {
				t.Errorf("%s: %v", target, err)
			}
		}
		// Asked for, a new identity is fetched.
		r.dir.change(func() {
			e := r.dir.entries[below]
			e.ID = iothub.DeviceIdentity("new")
			r.dir.entries[e.ID] = e
		})
		if got, err := r.hub.Member(t.Context(), "child", iothub.DeviceIdentity("new")); err != nil || names(got) != "new enabled false sas" {
			t.Errorf("new: %s, %v", names(got), err)
		}
	})
}

// above is the registry of the gateway or cloud above.
type above struct {
	calls []string
	err   error
}

func (a *above) OnBehalf(_ context.Context, actor string, call rest.ModuleCall, o rest.OnBehalfOf) (rest.Answer, error) {
	a.calls = append(a.calls, fmt.Sprint(actor, " ", call, " ", o.AuthChain, " ", o.Module))
	return rest.Answer{Status: 200}, a.err
}

func TestModulesOfAChildAreManagedWithALongerChain(t *testing.T) {
	a := &above{}
	made := iothub.ModuleIdentity("child", "made")
	within(t, func(r *rig, o *edge.Options) {
		withChild(r, o)
		o.Registry = a
	}, func(t *testing.T, r *rig) {
		r.dir.change(func() { r.dir.entries[made] = scope.Entry{ID: made, Enabled: true, Auth: scope.SAS, Primary: key} })
		if _, err := r.hub.Modules(t.Context(), "child", "child", rest.PutModule, rest.OnBehalfOf{Document: []byte(`{"moduleId":"made"}`)}); err != nil {
			t.Fatal(err)
		}
		r.connect(made) // it is known at once
		if _, err := r.hub.Modules(t.Context(), "child", "child", rest.DeleteModule, rest.OnBehalfOf{Module: "made"}); err != nil {
			t.Fatal(err)
		}
		for _, pair := range [][2]string{{"child", "leaf"}, {"child", "edge"}, {"child", "below"}, {"edge", "child"}, {"leaf", "leaf"}} {
			if _, err := r.hub.Modules(t.Context(), pair[0], pair[1], rest.ListModules, rest.OnBehalfOf{}); !errors.Is(err, head.ErrUnauthorized) {
				t.Errorf("%s for %s: %v", pair[0], pair[1], err)
			}
		}
		a.err = &rest.Error{Status: 412}
		if _, err := r.hub.Modules(t.Context(), "child", "child", rest.GetModule, rest.OnBehalfOf{Module: "made"}); rest.StatusOf(err) != 412 {
			t.Error(err)
		}
		if got := strings.Join(a.calls, ", "); got != "edge 0 child;edge , edge 3 child;edge made, edge 1 child;edge made" {
			t.Errorf("asked %s", got)
		}
	})
}
