package servercert_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/servercert"
)

func TestCertificateIsRenewedAfterFourFifthsAndRetriedEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var issued atomic.Int32
		var fail atomic.Bool
		issue := func(context.Context) (tls.Certificate, time.Time, error) {
			if fail.Load() {
				return tls.Certificate{}, time.Time{}, errors.New("daemon is away")
			}
			n := byte(issued.Add(1))
			return tls.Certificate{Certificate: [][]byte{{n}}}, time.Now().Add(100 * time.Hour), nil
		}
		h, err := servercert.New(t.Context(), issue, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		check := func(want byte) {
			t.Helper()
			synctest.Wait()
			c, err := h.GetCertificate(nil)
			if err != nil || c.Certificate[0][0] != want {
				t.Errorf("certificate %v, %v; want number %d", c.Certificate, err, want)
			}
		}
		time.Sleep(79 * time.Hour)
		check(1)
		time.Sleep(2 * time.Hour)
		check(2)
		fail.Store(true)
		time.Sleep(81 * time.Hour)
		check(2)
		fail.Store(false)
		time.Sleep(time.Minute)
		check(3)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestCertificateThatHasEndedIsRefused(t *testing.T) {
	_, err := servercert.New(t.Context(), func(context.Context) (tls.Certificate, time.Time, error) {
		return tls.Certificate{}, time.Now().Add(-time.Second), nil
	}, slog.New(slog.DiscardHandler))
	if err == nil {
		t.Error("no error")
	}
}

func TestClockThatIsSetLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The device starts in 1970 and learns the time after some minutes.
		var offset, issued atomic.Int64
		offset.Store(int64(time.Since(time.Unix(0, 0))))
		now := func() time.Time { return time.Now().Round(0).Add(-time.Duration(offset.Load())) }
		var life atomic.Int64
		life.Store(int64(30 * 24 * time.Hour))
		issue := func(context.Context) (tls.Certificate, time.Time, error) {
			issued.Add(1)
			return tls.Certificate{}, now().Add(time.Duration(life.Load())), nil
		}
		h, err := servercert.NewAt(t.Context(), issue, slog.New(slog.DiscardHandler), now)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		offset.Store(0)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := issued.Load(); n != 2 {
			t.Errorf("%d certificates after the clock was set", n)
		}
		// A CA that is about to end does not lead to a certificate every moment.
		life.Store(int64(time.Second))
		time.Sleep(25 * 24 * time.Hour)
		issued.Store(0)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := issued.Load(); n > 61 {
			t.Errorf("%d certificates in an hour", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
