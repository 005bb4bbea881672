package cloud_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestRenewedTokenMovesTheExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.device(registry.DeviceChange{DeviceID: "dev"})
		short, middle, long := b.token(dev, time.Hour), b.token(dev, 2*time.Hour), b.token(dev, 3*time.Hour)
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
		time.Sleep(time.Hour + sas.Skew + time.Second)
		synctest.Wait()
		if err := f.why(); err != nil {
			t.Errorf("ended with the first token: %v", err)
		}
		if err := s.Renew(t.Context(), head.Login{Identity: dev, Token: middle}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if err := f.why(); !errors.Is(err, head.ErrExpired) {
			t.Errorf("after the last token: %v", err)
		}
	})
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
