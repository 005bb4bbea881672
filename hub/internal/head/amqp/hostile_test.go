package amqp_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
)

// Before a token was shown a connection may have the sessions of an SDK with a thousand
// devices, and no more.
func TestSessionsBeforeATokenAreBounded(t *testing.T) {
	h := start(t, newBackend(), nil)
	begin := func(p *peer, n int) error {
		for range n {
			if _, err := p.NewSession(t.Context(), nil); err != nil {
				return err
			}
		}
		return nil
	}
	p := h.dial(nil)
	if err := begin(p, 1099); err != nil {
		t.Fatal(err)
	}
	if err := begin(p, 1); condition(err) != "amqp:resource-limit-exceeded" {
		t.Errorf("one more: %v", err)
	}
	if err := begin(h.login(dev), 1200); err != nil {
		t.Errorf("after a token: %v", err)
	}
}

// logBuffer counts lines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func TestAClientCannotFloodTheLog(t *testing.T) {
	var log logBuffer
	h := start(t, newBackend(), func(o *amqp.Options) {
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	p := h.dial(nil)
	for i := range 150 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := p.s.NewSender(ctx, "/devices/d1/messages/events", &goamqp.SenderOptions{Name: fmt.Sprint(i)})
		cancel()
		if condition(err) != "amqp:unauthorized-access" {
			t.Fatal(err)
		}
	}
	if n := log.count("amqp link refused"); n != 100 {
		t.Errorf("%d lines", n)
	}
	if n := log.count("the last of this connection"); n != 1 {
		t.Errorf("the end is told %d times", n)
	}
}

// The work for a message must not grow with the square of its properties.
func TestManyApplicationPropertiesAreNoWork(t *testing.T) {
	message := func(n int) *wire.Message {
		m := wire.NewMessage([]byte("x"))
		for i := range n {
			m.ApplicationProperties = m.ApplicationProperties.With("p"+strconv.Itoa(i), wire.String("v"))
		}
		return m
	}
	took := func(m *wire.Message) time.Duration {
		best := time.Hour
		for range 5 {
			began := time.Now()
			if _, refusal := amqp.DecodeTelemetry(m); refusal != nil {
				t.Fatal(refusal)
			}
			best = min(best, time.Since(began))
		}
		return best
	}
	// 16 times as many are 256 times the work if each is compared with each.
	if few, many := took(message(2000)), took(message(32000)); many > 100*few {
		t.Errorf("2000 properties take %v, 32000 take %v", few, many)
	}
	m := message(40)
	m.ApplicationProperties = m.ApplicationProperties.With("p7", wire.Value{}).With("p39", wire.String("last"))
	got, refusal := amqp.DecodeTelemetry(m)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if len(got.Properties) != 40 || !got.Properties[7].Null || got.Properties.Get("p39") != "last" {
		t.Errorf("equal names: %v", got.Properties)
	}
}
