package amqp_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
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

func TestAClientCannotFloodTheLog(t *testing.T) {
	var log headtest.LogBuffer
	h := start(t, newBackend(), func(o *amqp.Options) {
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	p := h.dial(nil)
	for i := range 150 {
		ctx, cancel := context.WithTimeout(t.Context(), headtest.Patience)
		_, err := p.s.NewSender(ctx, "/devices/d1/messages/events", &goamqp.SenderOptions{Name: fmt.Sprint(i)})
		cancel()
		if condition(err) != "amqp:unauthorized-access" {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "amqp link refused"); n != 100 {
		t.Errorf("%d lines", n)
	}
	if n := strings.Count(log.String(), "the last of this connection"); n != 1 {
		t.Errorf("the end is told %d times", n)
	}
}

// threadTime is the time that the thread has had of a processor: what else the machine
// does is not in it.
func threadTime(t *testing.T) time.Duration {
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	took := func(m *wire.Message, times int) time.Duration {
		began := threadTime(t)
		for range times {
			if _, refusal := amqp.DecodeTelemetry(m); refusal != nil {
				t.Fatal(refusal)
			}
		}
		return threadTime(t) - began
	}
	// As many properties in all, in messages of 2000 and of 32000: if each is compared
	// with each, the latter are 16 times the work.
	if few, many := took(message(2000), 160), took(message(32000), 10); many > 8*few {
		t.Errorf("in small messages %v, in large ones %v", few, many)
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

func TestTokensThatAreTooLong(t *testing.T) {
	h := start(t, newBackend(), nil)
	good := token(dev, time.Now().Add(time.Hour))
	fits, tooLong := good+"&x="+strings.Repeat("x", 4<<10-len(good)-3), good+"&x="+strings.Repeat("x", 4<<10-len(good)-2)
	p := h.dial(nil)
	for text, want := range map[string]int32{fits: 200, tooLong: 400} {
		if status, _ := p.putToken(text, "1"); status != want {
			t.Errorf("token of %d bytes: %d", len(text), status)
		}
		c, err := goamqp.Dial(t.Context(), "amqp://"+h.addr, &goamqp.ConnOptions{SASLType: goamqp.SASLTypePlain("d1@sas.h", text)})
		if (err == nil) != (want == 200) {
			t.Errorf("PLAIN, token of %d bytes: %v", len(text), err)
		}
		if err == nil {
			c.Close()
		}
	}
}

// The model is stamped on every message, and the product kept with the session.
func TestDescriptionsOfAClientAreBounded(t *testing.T) {
	b := newBackend()
	h := start(t, b, cloud)
	for n, want := range map[int]int{2048: 2048, 2049: 0} {
		h.login(dev).sender("/devices/d1/messages/events", &goamqp.SenderOptions{Properties: map[string]any{
			"com.microsoft:model-id": strings.Repeat("m", n), "com.microsoft:client-version": strings.Repeat("p", n)}})
		l := headtest.Receive(t, "session", b.Sessions).Login
		if len(l.ModelID) != want || len(l.Product) != 1024 {
			t.Errorf("model of %d bytes: %d; product: %d", n, len(l.ModelID), len(l.Product))
		}
	}
}
