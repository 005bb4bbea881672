package identity

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// call runs one request to the registry and sorts its failure.
func (m *Manager) call(what string, do func() error) error {
	if wait := m.quiet.wait(); wait > 0 {
		return fmt.Errorf("%s: %w: throttled for another %s", what, ErrUnavailable, wait.Round(time.Second))
	}
	err := do()
	m.quiet.note(rest.StatusOf(err) == http.StatusTooManyRequests)
	if err == nil {
		return nil
	}
	kind := kindOf(rest.StatusOf(err))
	if kind == ErrRefused && m.opt.OnRefused != nil { //nolint:errorlint // one of ours, as it is
		m.opt.OnRefused()
	}
	return fmt.Errorf("%s: %w: %w", what, kind, err)
}

// kindOf sorts HTTP statuses; 0 is no answer.
func kindOf(status int) error {
	switch {
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return ErrRefused
	case status == 0 || status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout:
		return ErrUnavailable
	}
	return ErrInvalid
}

// pauses follow one another while the registry keeps answering 429 (spec
// security-daemon 9.1); the last one repeats.
var pauses = []time.Duration{60 * time.Second, 120 * time.Second, 180 * time.Second, 300 * time.Second}

// throttle keeps the daemon quiet after a 429. Calls in the meantime fail at once,
// so that no caller waits for minutes.
type throttle struct {
	now func() time.Time

	mu    sync.Mutex
	step  int
	until time.Time
}

func (t *throttle) wait() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(0, t.until.Sub(t.now()))
}

func (t *throttle) note(throttled bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !throttled {
		t.step = 0
		return
	}
	pause := pauses[min(t.step, len(pauses)-1)]
	t.until = t.now().Add(pause + rand.N(pause/10))
	t.step++
}
