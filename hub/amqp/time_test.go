package amqp_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// piped runs n on one end of a pipe and gives f the other, in virtual time.
func piped(t *testing.T, n *node, o amqp.Options, f func(ctx context.Context, nc net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		n.closed = make(chan error, 1)
		s := &amqp.Server{Options: o, NewConn: func(c *amqp.Conn) amqp.ConnHandler {
			n.conn = c
			return n
		}}
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Serve(t.Context(), ours) })
		f(t.Context(), theirs)
		_ = theirs.Close()
		wg.Wait()
	})
}

func TestHeartbeatsKeepAQuietConnection(t *testing.T) {
	n := &node{}
	piped(t, n, engineOptions(engine.Options{IdleTimeout: time.Minute}), func(ctx context.Context, nc net.Conn) {
		c, err := goamqp.NewConn(ctx, nc, &goamqp.ConnOptions{IdleTimeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := c.NewSession(ctx, nil); err != nil {
			t.Fatal("the connection did not last", err)
		}
		_ = c.Close() // which may complain that it has closed the pipe itself
		if err := <-n.closed; err != nil {
			t.Fatal(err)
		}
	})
}

func TestSilentClientsAreClosed(t *testing.T) {
	n := &node{}
	piped(t, n, engineOptions(engine.Options{IdleTimeout: time.Minute}), func(_ context.Context, nc net.Conn) {
		hello := []byte("AMQP\x00\x01\x00\x00")
		hello, _ = wire.AppendFrame(hello, wire.FrameAMQP, 0, &wire.Open{ContainerID: "silent"}, nil, 512)
		began := time.Now()
		go drainAll(nc)
		_, _ = nc.Write(hello)
		var e *wire.Error
		if err := <-n.closed; !errors.As(err, &e) || !strings.Contains(e.Description, "idle") {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 75*time.Second || took > 90*time.Second {
			t.Fatal(took)
		}
	})
}

func TestClientsThatDoNotOpenAreClosed(t *testing.T) {
	n := &node{}
	piped(t, n, amqp.Options{}, func(_ context.Context, nc net.Conn) {
		began := time.Now()
		_, _ = nc.Write([]byte("AMQ"))
		if err := <-n.closed; err == nil || time.Since(began) < time.Minute {
			t.Fatal(err, time.Since(began))
		}
	})
}

func TestClientsThatDoNotReadAreCutOff(t *testing.T) {
	n := &node{}
	piped(t, n, amqp.Options{WriteTimeout: 20 * time.Second}, func(_ context.Context, nc net.Conn) {
		began := time.Now()
		_, _ = nc.Write([]byte("AMQP\x00\x01\x00\x00"))
		if err := <-n.closed; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 20*time.Second {
			t.Fatal(err, time.Since(began))
		}
	})
}

func TestStoppingDoesNotWaitForAClientThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		n := &node{closed: make(chan error, 1)}
		s := &amqp.Server{NewConn: func(*amqp.Conn) amqp.ConnHandler { return n }}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Serve(ctx, ours) })
		hello := []byte("AMQP\x00\x01\x00\x00")
		hello, _ = wire.AppendFrame(hello, wire.FrameAMQP, 0, &wire.Open{}, nil, 512)
		_, _ = theirs.Write(hello)
		began := time.Now()
		stop()
		<-n.closed
		if took := time.Since(began); took > 7*time.Second { // for the client's close, and for writing
			t.Fatal(took)
		}
		wg.Wait()
		_ = theirs.Close()
	})
}

// A client that asks and never reads must not make the server hold its answers.
func TestAnswersToAClientThatDoesNotReadAreBounded(t *testing.T) {
	n := &node{}
	piped(t, n, engineOptions(engine.Options{MaxOutput: 100_000}), func(_ context.Context, nc net.Conn) {
		b := []byte("AMQP\x00\x01\x00\x00")
		b, _ = wire.AppendFrame(b, wire.FrameAMQP, 0, &wire.Open{ContainerID: "c"}, nil, 512)
		b, _ = wire.AppendFrame(b, wire.FrameAMQP, 0, &wire.Begin{}, nil, 512)
		echo, _ := wire.AppendFrame(nil, wire.FrameAMQP, 0, &wire.Flow{Echo: true}, nil, 512)
		for len(b) < 4<<10 {
			b = append(b, echo...)
		}
		total := 0
		_ = nc.SetWriteDeadline(time.Now().Add(30 * time.Second))
		for {
			k, err := nc.Write(b)
			total += k
			if err != nil {
				break
			}
			b = b[:0]
			for len(b) < 4<<10 {
				b = append(b, echo...)
			}
		}
		if total > 1<<20 {
			t.Fatalf("the server took %d bytes", total)
		}
	})
}

func drainAll(nc net.Conn) {
	b := make([]byte, 4096)
	for {
		if _, err := nc.Read(b); err != nil {
			return
		}
	}
}

// Calls from many goroutines, with a connection that ends in the middle: each
// callback comes exactly once.
func TestEveryMessageHasOneFateWhenTheConnectionBreaks(t *testing.T) {
	for range 20 {
		n := &node{}
		var sent, told atomic.Int64
		nc := serve(t, n, amqp.Options{})
		c, err := goamqp.NewConn(t.Context(), nc, nil)
		if err != nil {
			t.Fatal(err)
		}
		session, err := c.NewSession(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		receiver, err := session.NewReceiver(t.Context(), "a", &goamqp.ReceiverOptions{Credit: 50})
		if err != nil {
			t.Fatal(err)
		}
		s := n.waitSender(t, 0)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					switch err := s.Send(wire.NewMessage([]byte("x")), amqp.SendOptions{}, func(amqp.Outcome) { told.Add(1) }); {
					case err == nil:
						sent.Add(1)
					case errors.Is(err, amqp.ErrLinkGone):
						return
					default:
						time.Sleep(100 * time.Microsecond)
					}
				}
			})
		}
		wg.Go(func() {
			for range 50 {
				m, err := receiver.Receive(t.Context(), nil)
				if err != nil {
					return
				}
				_ = receiver.AcceptMessage(t.Context(), m)
			}
			_ = nc.Close()
		})
		wg.Wait()
		<-n.closed
		if sent.Load() != told.Load() {
			t.Fatalf("%d sent, %d fates", sent.Load(), told.Load())
		}
		_ = c.Close()
	}
}
