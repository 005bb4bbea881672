package client_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// outcomes collects what done functions are called with.
type outcomes struct {
	mu   sync.Mutex
	list []string // "name" or "name: lost"
}

func (o *outcomes) done(name string) func(error) {
	return func(err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		switch {
		case err == nil:
			o.list = append(o.list, name)
		case errors.Is(err, client.ErrConnectionLost):
			o.list = append(o.list, name+": lost")
		default:
			o.list = append(o.list, name+": "+err.Error())
		}
	}
}

func (o *outcomes) all() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.list)
}

func names(from, to int) []string {
	var list []string
	for i := from; i < to; i++ {
		list = append(list, strconv.Itoa(i))
	}
	return list
}

func TestSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		d := h.start(h.options(), nil)
		defer d.end(t)
		d.connected(t)
		m := &iothub.Message{
			Body:       []byte("hello"),
			Properties: iothub.Properties{{Name: "a b", Value: "ü/+"}},
			System:     iothub.Properties{{Name: iothub.MessageID, Value: "1"}},
		}
		if err := d.SendOutput(t.Context(), "out", m); err != nil {
			t.Fatal(err)
		}
		if _, ok := m.System.Lookup(iothub.OutputName); ok {
			t.Error("SendOutput changed the message")
		}
		got := h.received[0]
		if string(got.Body) != "hello" || got.Properties.Get("a b") != "ü/+" ||
			got.System.Get(iothub.MessageID) != "1" || got.System.Get(iothub.OutputName) != "out" {
			t.Errorf("received %+v", got)
		}
		in := h.logins[0]
		if in.clean || in.user.ClientType != "test/1" || in.user.AuthChain != "" || time.Until(in.token.Expiry) != time.Hour {
			t.Errorf("login %+v", in)
		}
		for name, large := range map[string]*iothub.Message{
			"body":  {Body: make([]byte, iothub.MaxMessageSize+1)},
			"topic": {Properties: iothub.Properties{{Name: "a", Value: strings.Repeat("%", 30000)}}},
		} {
			if err := d.Send(t.Context(), large); !errors.Is(err, client.ErrTooLarge) {
				t.Errorf("large %s: %v", name, err)
			}
		}
	})
}

func TestSendOnBehalfOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		h.sasFor = iothub.ModuleIdentity("edge", iothub.HubModule)
		o := h.options()
		o.Identity = iothub.DeviceIdentity("leaf")
		o.SASIdentity, o.AuthChain, o.Host, o.ModelID = h.sasFor, "leaf;edge", "gateway.test", "dtmi:x;1"
		d := h.start(o, nil)
		defer d.end(t)
		d.connected(t)
		if err := d.Send(t.Context(), text("x")); err != nil {
			t.Fatal(err)
		}
		if u := h.logins[0].user; u.AuthChain != "leaf;edge" || u.ModelID != "dtmi:x;1" || u.Identity != o.Identity {
			t.Errorf("user name %+v", u)
		}
	})
}

func TestSendAsyncKeepsOrderAndWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		o := h.options()
		o.Window = 8
		d := h.start(o, nil)
		defer d.end(t)
		d.connected(t)
		var got outcomes
		for _, name := range names(0, 500) {
			if err := d.SendAsync(t.Context(), text(name), got.done(name)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if want := names(0, 500); !slices.Equal(h.bodies(), want) || !slices.Equal(got.all(), want) {
			t.Errorf("received %v\nacknowledged %v", h.bodies(), got.all())
		}

		h.set(func() { h.mute = true })
		for _, name := range names(500, 508) {
			if err := d.SendAsync(t.Context(), text(name), got.done(name)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute/2)
		defer cancel()
		if err := d.SendAsync(ctx, text("too many"), got.done("too many")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("beyond the window: %v", err)
		}
		synctest.Wait()
		if n := len(h.bodies()); n != 508 {
			t.Errorf("%d messages received; want 508", n)
		}
		if n := len(got.all()); n != 500 {
			t.Errorf("%d outcomes; want 500", n)
		}
	})
}

func TestLostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		d := h.start(h.options(), nil)
		defer d.end(t)
		d.connected(t)
		h.set(func() { h.mute = true })
		var got outcomes
		for _, name := range names(0, 20) {
			if err := d.SendAsync(t.Context(), text(name), got.done(name)); err != nil {
				t.Fatal(err)
			}
		}
		sent := make(chan error)
		go func() { sent <- d.Send(t.Context(), text("plain")) }()
		synctest.Wait()
		h.drop()
		if err := <-sent; !errors.Is(err, client.ErrConnectionLost) {
			t.Errorf("Send without retry: %v", err)
		}
		synctest.Wait()
		want := names(0, 20)
		for i := range want {
			want[i] += ": lost"
		}
		if !slices.Equal(got.all(), want) {
			t.Errorf("outcomes %v", got.all())
		}
		if err := d.Send(t.Context(), text("x")); !errors.Is(err, client.ErrNotConnected) {
			t.Errorf("Send while away: %v", err)
		}
		h.set(func() { h.mute = false })
		start := time.Now()
		d.connected(t)
		if away := time.Since(start); away < 2*time.Second || away > 3*time.Second {
			t.Errorf("away for %v", away)
		}
		if err := d.Send(t.Context(), text("back")); err != nil {
			t.Error(err)
		}
		var states []client.State
		for _, s := range d.seen() {
			states = append(states, s.State)
			if s.State == client.Disconnected && !errors.Is(s.Err, client.ErrConnectionLost) {
				t.Errorf("reason %v", s.Err)
			}
		}
		if !slices.Equal(states, []client.State{client.Connecting, client.Connected, client.Disconnected, client.Connecting, client.Connected}) {
			t.Errorf("states %v", states)
		}
	})
}

func TestSendWithRetryOutlivesConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		h.mute = true
		o := h.options()
		o.Retry = true
		d := h.start(o, nil)
		defer d.end(t)
		sent := make(chan error)
		go func() { sent <- d.Send(t.Context(), text("x")) }()
		time.Sleep(time.Second)
		h.drop()
		time.Sleep(10 * time.Second)
		h.drop()
		h.set(func() { h.mute = false })
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if !slices.Equal(h.bodies(), []string{"x", "x", "x"}) {
			t.Errorf("received %v", h.bodies())
		}
		h.set(func() { h.refuse = true })
		h.drop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := d.Send(ctx, text("y")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Send until its context ends: %v", err)
		}
	})
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		defer h.close()
		o := h.options()
		o.Retry = true
		d := h.start(o, nil)
		d.connected(t)
		if err := d.Run(t.Context()); !errors.Is(err, client.ErrClosed) {
			t.Errorf("second Run: %v", err)
		}
		h.set(func() { h.mute = true })
		var got outcomes
		if err := d.SendAsync(t.Context(), text("1"), got.done("1")); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- d.Send(context.Background(), text("2")) }()
		synctest.Wait()
		start := time.Now()
		d.end(t)
		if waited := time.Since(start); waited != 2*time.Second {
			t.Errorf("waited %v for acknowledgements", waited)
		}
		if !slices.Equal(got.all(), []string{"1: lost"}) {
			t.Errorf("outcomes %v", got.all())
		}
		if err := <-sent; !errors.Is(err, client.ErrClosed) {
			t.Errorf("Send under way: %v", err)
		}
		if err := d.SendAsync(t.Context(), text("3"), got.done("3")); !errors.Is(err, client.ErrClosed) {
			t.Errorf("SendAsync afterwards: %v", err)
		}
		if _, err := d.Twin(t.Context()); !errors.Is(err, client.ErrClosed) {
			t.Errorf("Twin afterwards: %v", err)
		}
		if last := d.seen()[len(d.seen())-1]; last.State != client.Disconnected || last.Err != nil {
			t.Errorf("last state %+v", last)
		}
	})
}
