package auth_test

import (
	"errors"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// tree is edge with child below it, grand below that, and a leaf below each; beside
// child stands sibling.
func tree() *fakeScope {
	var list []scope.Entry
	for _, id := range []string{"edge", "child", "grand", "sibling"} {
		e := entry(id)
		e.Edge = true
		list = append(list, e, entry(id+"/$edgeHub"), entry(id+"/m"))
	}
	s := newScope(append(list, entry("leaf"), entry("leaf2"), entry("leaf/m"))...)
	s.parents = map[string]string{"child": "edge", "sibling": "edge", "grand": "child", "leaf": "child", "leaf2": "grand"}
	return s
}

func TestLoginOnBehalf(t *testing.T) {
	disable := func(id string) func(*fakeScope) {
		return func(s *fakeScope) {
			d := iothub.DeviceIdentity(id)
			e := s.known[d]
			e.Enabled = false
			s.known[d] = e
		}
	}
	tests := []struct {
		name, id, chain string
		signer          string // whose token it is
		change          func(*fakeScope)
		ok              bool
	}{
		{"leaf of the child", "leaf", "leaf;child", "child/$edgeHub", nil, true},
		{"module of a leaf", "leaf/m", "leaf/m;leaf;child", "child/$edgeHub", nil, true},
		{"module of the child", "child/m", "child/m;child", "child/$edgeHub", nil, true},
		{"the child's hub for itself", "child/$edgeHub", "child/$edgeHub;child", "child/$edgeHub", nil, true},
		{"leaf two levels below", "leaf2", "leaf2;grand;child", "child/$edgeHub", nil, true},
		{"what stands between is not looked at", "leaf2", "leaf2;nonsense;child", "child/$edgeHub", nil, true},
		{"actor further below", "leaf2", "leaf2;grand", "grand/$edgeHub", nil, true},
		{"token of the actor's device", "leaf", "leaf;child", "child", nil, true},
		{"foreign actor", "leaf", "leaf;sibling", "sibling/$edgeHub", nil, false},
		{"actor below the target", "leaf", "leaf;grand", "grand/$edgeHub", nil, false},
		{"another module of the actor", "leaf", "leaf;child", "child/m", nil, false},
		{"the target's own token", "leaf", "leaf;child", "leaf", nil, false},
		{"token of a sibling", "leaf", "leaf;child", "sibling/$edgeHub", nil, false},
		{"this device as actor", "leaf", "leaf;child;edge", "edge/$edgeHub", nil, false},
		{"a leaf as actor", "leaf/m", "leaf/m;leaf", "leaf", nil, false},
		{"chain of somebody else", "leaf", "leaf2;grand;child", "child/$edgeHub", nil, false},
		{"chain of one", "leaf", "leaf", "leaf", nil, false},
		{"chain without end", "leaf", "leaf;", "child/$edgeHub", nil, false},
		{"target disabled", "leaf", "leaf;child", "child/$edgeHub", disable("leaf"), false},
		{"actor disabled", "leaf", "leaf;child", "child/$edgeHub", disable("child"), false},
		{"one between disabled", "leaf2", "leaf2;grand;child", "child/$edgeHub", disable("grand"), false},
		{"target gone", "leaf", "leaf;child", "child/$edgeHub", func(s *fakeScope) { delete(s.known, iothub.DeviceIdentity("leaf")) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := tree()
			if tt.change != nil {
				tt.change(s)
			}
			id, err := iothub.ParseIdentity(tt.id)
			if err != nil {
				t.Fatal(err)
			}
			l := head.Login{Identity: id, AuthChain: tt.chain, Token: token(t, "hub.example", tt.signer, "primary of "+tt.signer, now.Add(time.Hour))}
			err = authenticator(s, nil).Authenticate(t.Context(), l)
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, head.ErrUnauthorized) {
				t.Errorf("error %v", err)
			}
			l.Token = ""
			if err := authenticator(s, nil).Check(l); !errors.Is(err, head.ErrUnauthorized) {
				t.Errorf("without a token: %v", err)
			}
		})
	}
}

func TestLoginOnBehalfOfSomebodyNewAsksForAll(t *testing.T) {
	s := tree()
	for _, id := range []iothub.Identity{iothub.DeviceIdentity("leaf"), iothub.DeviceIdentity("child"), iothub.ModuleIdentity("child", "$edgeHub")} {
		s.fresh[id] = s.known[id]
		delete(s.known, id)
	}
	l := head.Login{Identity: iothub.DeviceIdentity("leaf"), AuthChain: "leaf;child",
		Token: token(t, "hub.example", "child/$edgeHub", "primary of child/$edgeHub", now.Add(time.Hour))}
	if err := authenticator(s, nil).Authenticate(t.Context(), l); err != nil || s.listings != 0 {
		t.Errorf("%v, %d listings", err, s.listings)
	}
	delete(s.known, iothub.DeviceIdentity("leaf"))
	delete(s.fresh, iothub.DeviceIdentity("leaf"))
	if err := authenticator(s, nil).Authenticate(t.Context(), l); !errors.Is(err, head.ErrUnauthorized) || s.listings != 1 {
		t.Errorf("%v, %d listings for one that is not there", err, s.listings)
	}
	s.err = errors.New("cloud is away")
	if err := authenticator(s, nil).Authenticate(t.Context(), l); !errors.Is(err, head.ErrUnauthorized) {
		t.Errorf("without a cloud: %v", err)
	}
}
