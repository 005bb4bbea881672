package amqp_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func deviceN(i int) iothub.Identity { return iothub.DeviceIdentity("d" + string(rune('0'+i))) }

// piped runs f against a head in virtual time.
func piped(t *testing.T, b *backend, change func(*amqp.Options), f func(t *testing.T, p *peer)) {
	synctest.Test(t, func(t *testing.T) {
		b.Sessions = make(chan *session, 64) // one of the bubble
		o := amqp.Options{Backend: b, Logger: slog.New(slog.DiscardHandler)}
		if change != nil {
			change(&o)
		}
		srv, err := amqp.New(o)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() { srv.ServeConn(context.Background(), ours, amqp.Transport{Protocol: "amqp"}) })
		c, err := goamqp.NewConn(t.Context(), theirs, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSession(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer wg.Wait()
		defer theirs.Close()
		defer c.Close() // which may complain that it has closed the pipe itself
		f(t, &peer{t: t, Conn: c, s: s})
	})
}

func TestWhoShowsNothingIsClosed(t *testing.T) {
	piped(t, newBackend(), nil, func(t *testing.T, p *peer) {
		began := time.Now()
		<-p.Done()
		if d := time.Since(began); d != time.Minute || condition(p.Err()) != "amqp:unauthorized-access" {
			t.Errorf("after %v: %v", d, p.Err())
		}
	})
	piped(t, newBackend(), nil, func(t *testing.T, p *peer) {
		p.login(dev)
		select {
		case <-p.Done():
			t.Error(p.Err())
		case <-time.After(time.Hour):
		}
	})
}

func TestServicesEndWithTheirToken(t *testing.T) {
	var sv *services
	serving := func(o *amqp.Options) {
		sv = newServices() // its channels are of the bubble
		serving(sv)(o)
	}
	piped(t, newBackend(), serving, func(t *testing.T, p *peer) {
		sv.expireIn(time.Hour)
		p.login(policy)
		s := p.sender("/messages/devicebound", nil)
		time.Sleep(59 * time.Minute)
		sv.expireIn(time.Hour)
		p.login(policy) // renewed
		time.Sleep(59 * time.Minute)
		p.mustSend(s, toDevice("/devices/d1/messages/devicebound", "x"))
		time.Sleep(2 * time.Minute)
		if err := p.send(s, toDevice("/devices/d1/messages/devicebound", "x")); condition(err) != "amqp:unauthorized-access" {
			t.Errorf("expired: %v", err)
		}
		if _, err := p.s.NewSender(t.Context(), "/messages/devicebound", nil); condition(err) != "amqp:unauthorized-access" {
			t.Errorf("after expiry: %v", err)
		}
		sv.expireIn(time.Hour)
		p.login(policy)
		p.sender("/messages/devicebound", nil)
	})
}

// goes waits for the end of a link whose token runs out within two minutes.
func (p *peer) goes(r *goamqp.Receiver) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := r.Receive(ctx, nil); condition(err) != "amqp:unauthorized-access" {
		p.t.Errorf("after the expiry: %v", err)
	}
}

// stays checks that a link is there for a while.
func (p *peer) stays(r *goamqp.Receiver, d time.Duration) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), d)
	defer cancel()
	if _, err := r.Receive(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		p.t.Errorf("before the expiry: %v", err)
	}
}

func TestReadersGoWithTheTokenOfTheirService(t *testing.T) {
	var sv *services
	reading := func(o *amqp.Options) {
		sv = newServices() // its channels are of the bubble
		readingEvents(sv, newEventHub())(o)
	}
	piped(t, newBackend(), reading, func(t *testing.T, p *peer) {
		sv.expireIn(time.Hour)
		p.login(policy)
		r := p.receiver(partition0, nil)
		p.stays(r, 59*time.Minute)
		p.goes(r)
		if _, err := p.s.NewReceiver(t.Context(), partition0, nil); condition(err) != "amqp:unauthorized-access" {
			t.Errorf("once more: %v", err)
		}
	})
}

func TestAReaderGoesWithTheLastTokenThatCoversIt(t *testing.T) {
	var sv *services
	var e *eventHub
	reading := func(o *amqp.Options) {
		sv, e = newServices(), newEventHub()
		onePartition(t, sv)
		readingEvents(sv, e)(o)
	}
	piped(t, newBackend(), reading, func(t *testing.T, p *peer) {
		p.mayRead("0") // for ever
		other := p.receiver(partition0, nil)
		sv.expireIn(time.Hour)
		p.mayRead("1")
		r := p.receiver("eh-name/ConsumerGroups/$Default/Partitions/1", nil)
		p.stays(r, 59*time.Minute)
		sv.expireIn(time.Hour)
		p.mayRead("1")
		p.stays(r, 59*time.Minute)
		p.goes(r)
		e.add(0, "x")
		p.receive(other)
	})
}

func TestABackendThatHangs(t *testing.T) {
	b := newBackend()
	b.Hang = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	piped(t, b, cloud, func(t *testing.T, p *peer) {
		began := time.Now()
		status, _ := p.putTokenWithin(token(dev, never), "1", time.Minute)
		if d := time.Since(began); status != 503 || d != 30*time.Second {
			t.Errorf("status %d after %v", status, d)
		}
	})
}

// Gateways on the way forget connections that are silent.
func TestAClientThatNamesNoIdleTimeGetsHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, err := amqp.New(amqp.Options{Backend: newBackend(), Logger: slog.New(slog.DiscardHandler), ConnectTimeout: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() { srv.ServeConn(context.Background(), ours, amqp.Transport{Protocol: "amqp"}) })
		hello := []byte("AMQP\x00\x01\x00\x00")
		hello, _ = wire.AppendFrame(hello, wire.FrameAMQP, 0, &wire.Open{ContainerID: "c"}, nil, 512)
		go func() { _, _ = theirs.Write(hello) }()
		b := make([]byte, 4096)
		for {
			began := time.Now()
			n, err := theirs.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			if string(b[:n]) != "\x00\x00\x00\x08\x02\x00\x00\x00" {
				continue // header and open
			}
			if d := time.Since(began); d != 105*time.Second {
				t.Errorf("after %v", d)
			}
			break
		}
		_ = theirs.Close()
		wg.Wait()
	})
}
