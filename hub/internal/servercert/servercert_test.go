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
