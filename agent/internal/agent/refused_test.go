package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/agent"
	"github.com/breakwater-iot/breakwater/agent/internal/launch"
)

// register notes when it is asked.
type register struct{ at []time.Duration }

func (r *register) Identities(context.Context) ([]launch.Identity, error) {
	r.at = append(r.at, time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
	return nil, errors.New("refused")
}

func TestRefusalsLeadToAQuestionEveryFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		refused, r, done := make(chan struct{}, 1), &register{}, make(chan struct{})
		go func() {
			defer close(done)
			agent.AskWhenRefused(ctx, refused, r, slog.New(slog.DiscardHandler))
		}()
		for range 12 { // the client tries once a minute
			select {
			case refused <- struct{}{}:
			default:
			}
			time.Sleep(time.Minute)
		}
		cancel()
		<-done
		want := []time.Duration{0, 5 * time.Minute, 10 * time.Minute}
		if len(r.at) != len(want) || r.at[0] != want[0] || r.at[1] != want[1] || r.at[2] != want[2] {
			t.Errorf("asked at %v, want %v", r.at, want)
		}
	})
}
