package listen_test

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/head/listen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

type world struct {
	t     *testing.T
	addr  string
	known chan func() // of each connection that was let in
}

// serve lets a number of connections in and keeps each until the client goes.
func serve(t *testing.T, places int) *world {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, addr: ln.Addr().String(), known: make(chan func(), 100)}
	l := listen.New(listen.Options{Protocol: "test", Timeout: time.Hour, MaxConnections: places, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, ln, func(ctx context.Context, nc net.Conn, _ []*x509.Certificate) {
			unwatch := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
			defer unwatch()
			w.known <- func() { listen.Known(ctx) }
			_, _ = nc.Write([]byte("hello"))
			_, _ = nc.Read(make([]byte, 1))
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// dial connects from an address; known is nil when the connection was not let in.
func (w *world) dial(from string) (nc net.Conn, known func()) {
	w.t.Helper()
	nc, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close() })
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	if n, _ := nc.Read(make([]byte, 5)); n == 0 {
		return nc, nil
	}
	return nc, <-w.known
}

func (w *world) ended(nc net.Conn) bool {
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	_, err := nc.Read(make([]byte, 1))
	ne, ok := err.(net.Error)
	return err != nil && !(ok && ne.Timeout())
}

func (w *world) lives(nc net.Conn) bool {
	_ = nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, err := nc.Read(make([]byte, 1))
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

func TestNobodyKeepsOthersOutBySayingNothing(t *testing.T) {
	const hostile, honest, another = "127.0.0.9", "127.0.0.1", "127.0.0.2"
	w := serve(t, 4)
	var crowd []net.Conn
	for range 4 {
		nc, known := w.dial(hostile)
		if known == nil {
			t.Fatal("not let in")
		}
		crowd = append(crowd, nc)
	}
	if _, known := w.dial(hostile); known != nil {
		t.Error("one more of the crowd is let in")
	}
	first, known := w.dial(honest)
	if known == nil || !w.ended(crowd[0]) {
		t.Fatal("the oldest of the crowd does not give way")
	}
	known()
	second, known := w.dial(another)
	if known == nil || !w.ended(crowd[1]) {
		t.Fatal("the next of the crowd does not give way")
	}
	if !w.lives(first) || !w.lives(second) || !w.lives(crowd[2]) || !w.lives(crowd[3]) {
		t.Error("somebody else gave way")
	}
	// Places are free again when their connections end, those that gave way too.
	for _, nc := range append(crowd, first, second) {
		nc.Close()
	}
	deadline := time.Now().Add(patience)
	for n := 0; n < 4; {
		if _, known := w.dial(hostile); known != nil {
			n++
		} else if time.Now().After(deadline) {
			t.Fatalf("%d places", n)
		}
	}
}

func TestWhoIsKnownDoesNotGiveWay(t *testing.T) {
	w := serve(t, 2)
	for range 2 {
		_, known := w.dial("127.0.0.9")
		known()
	}
	if _, known := w.dial("127.0.0.1"); known != nil {
		t.Error("more are let in than there are places")
	}
}
