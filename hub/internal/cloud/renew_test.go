package cloud_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestRenewedTokenMovesTheExpiry(t *testing.T) {
	var mu sync.Mutex
	clock := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	b := newBench(t, func() time.Time { mu.Lock(); defer mu.Unlock(); return clock })
	b.device(registry.DeviceChange{DeviceID: "dev"})
	short, long := b.token(dev, time.Hour), b.token(dev, 2*time.Hour)
	mu.Lock()
	clock = clock.Add(time.Hour + sas.Skew - 200*time.Millisecond)
	mu.Unlock()
	f := newFake()
	s, err := b.Connect(t.Context(), head.Login{Identity: dev, Token: short}, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Renew(t.Context(), head.Login{Identity: dev, Token: "x"}); !errors.Is(err, head.ErrUnauthorized) {
		t.Errorf("malformed: %v", err)
	}
	if err := s.Renew(t.Context(), head.Login{Identity: iothub.DeviceIdentity("other"), Token: long}); !errors.Is(err, head.ErrInvalid) {
		t.Errorf("of another: %v", err)
	}
	if err := s.Renew(t.Context(), head.Login{Identity: dev, Token: long}); err != nil {
		t.Fatal(err)
	}
	select {
	case reason := <-f.ended:
		t.Errorf("ended: %v", reason)
	case <-time.After(400 * time.Millisecond):
	}
	if err := s.Renew(t.Context(), head.Login{Identity: dev, Token: short}); err != nil {
		t.Fatal(err)
	}
	if reason := receive(t, f.ended, "the end"); !errors.Is(reason, head.ErrExpired) {
		t.Error(reason)
	}
}

func TestCheckAdmitsNobody(t *testing.T) {
	b := newBench(t, nil)
	b.device(registry.DeviceChange{DeviceID: "dev"})
	f := newFake()
	b.connect(dev, f)
	if err := b.Check(t.Context(), head.Login{Identity: dev, Token: b.token(dev, time.Hour)}); err != nil {
		t.Error(err)
	}
	select {
	case reason := <-f.ended:
		t.Errorf("ended: %v", reason)
	default:
	}
	for name, l := range map[string]head.Login{
		"malformed": {Identity: dev, Token: "x"}, "unknown": {Identity: iothub.DeviceIdentity("x"), Token: b.token(dev, time.Hour)},
		"a device's in place of a policy's": {Token: b.token(dev, time.Hour)},
	} {
		if err := b.Check(t.Context(), l); !errors.Is(err, head.ErrUnauthorized) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
