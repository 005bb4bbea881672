package renewal_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

func TestPolicy(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until := from.Add(100 * day)
	for _, c := range []struct {
		name   string
		policy renewal.Policy
		due    time.Time
		retry  time.Duration
	}{
		{"default", renewal.Default(), from.Add(80 * day), 4 * day},
		{"times count back from the end", renewal.Policy{Threshold: renewal.Period{Time: 10 * day}, Retry: renewal.Period{Time: time.Hour}}, from.Add(90 * day), time.Hour},
		{"no busy loop", renewal.Policy{Threshold: renewal.Period{Share: 0.5}, Retry: renewal.Period{Share: 1e-12}}, from.Add(50 * day), time.Second},
	} {
		if got := c.policy.Due(from, until); !got.Equal(c.due) {
			t.Errorf("%s: due %v, want %v", c.name, got, c.due)
		}
		if got := c.policy.RetryAfter(from, until); got != c.retry {
			t.Errorf("%s: retry %v, want %v", c.name, got, c.retry)
		}
	}
}

// cert is renewed for ten days each time, unless its issuer is away.
type cert struct {
	mu      sync.Mutex
	short   bool // it is due as soon as it is made
	from    time.Time
	down    bool
	tries   int
	renewed int
}

func (c *cert) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *cert) RenewAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.short {
		return c.from
	}
	return renewal.Default().Due(c.from, c.from.Add(10*day))
}

func (c *cert) RetryAfter() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return renewal.Default().RetryAfter(c.from, c.from.Add(10*day))
}

func (c *cert) Renew(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	if c.down {
		return errors.New("no route")
	}
	c.from = time.Now()
	return nil
}

func TestCertificateIsRenewedInTimeAlsoAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := &cert{from: time.Now()}
		start := c.from
		done := make(chan error, 1)
		go func() {
			done <- renewal.Run(ctx, c, slog.New(slog.DiscardHandler), func(context.Context) { c.set(func() { c.renewed++ }) })
		}()
		time.Sleep(8*day - time.Minute)
		synctest.Wait()
		c.set(func() {
			if c.tries != 0 {
				t.Error("renewed too early")
			}
		})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		c.set(func() {
			if c.renewed != 1 || c.from.Sub(start) != 8*day {
				t.Errorf("%d renewals, the last at %v", c.renewed, c.from.Sub(start))
			}
			// The issuer is away past the end of the certificate.
			c.down, c.tries = true, 0
		})
		time.Sleep(20 * day)
		synctest.Wait()
		c.set(func() {
			// 12 days at intervals of 9.6 hours.
			if c.renewed != 1 || c.tries < 29 || c.tries > 31 {
				t.Errorf("%d renewals, %d attempts", c.renewed, c.tries)
			}
			c.down = false
		})
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		c.set(func() {
			if c.renewed != 2 {
				t.Error("not renewed when the issuer was back")
			}
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestShortLivesLeadToNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*day)
		defer cancel()
		c := &cert{from: time.Now(), short: true}
		if err := renewal.Run(ctx, c, slog.New(slog.DiscardHandler), func(context.Context) {}); err != nil {
			t.Fatal(err)
		}
		if c.tries < 24 || c.tries > 26 { // every 9.6 hours
			t.Errorf("%d renewals", c.tries)
		}
	})
}

func TestWhatWasRenewedMeanwhileIsDueLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 14*day)
		defer cancel()
		c := &cert{from: time.Now()}
		done := make(chan error, 1)
		go func() { done <- renewal.Run(ctx, c, slog.New(slog.DiscardHandler), func(context.Context) {}) }()
		time.Sleep(7 * day)
		if err := c.Renew(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || c.tries != 1 {
			t.Errorf("%d renewals, %v", c.tries, err)
		}
	})
}
