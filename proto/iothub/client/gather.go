package client

import (
	"net"
	"sync"
	"time"
)

// gathered is a connection on which writes return at once and go out together, as
// many as have come while the network was busy: go-amqp writes each frame on its
// own, which is a record of TLS and a call of the system for each message. Errors
// come with a later write. A goroutine belongs to it, which Close waits for.
type gathered struct {
	net.Conn
	limit time.Duration // for a write to the network
	done  chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte // to be written
	spare   []byte
	closing bool
	err     error
}

const (
	gatherLimit = 256 << 10 // bytes that wait; writes wait for room
	gatherKeep  = 64 << 10  // of a buffer that is not needed
)

func newGathered(conn net.Conn, limit time.Duration) *gathered {
	g := &gathered{Conn: conn, limit: limit, done: make(chan struct{})}
	g.changed = sync.NewCond(&g.mu)
	go g.run()
	return g
}

// Write takes all of b, or none.
func (g *gathered) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.buf) >= gatherLimit && g.err == nil && !g.closing {
		g.changed.Wait()
	}
	switch {
	case g.err != nil:
		return 0, g.err
	case g.closing:
		return 0, net.ErrClosed
	}
	g.buf = append(g.buf, b...)
	g.changed.Broadcast()
	return len(b), nil
}

// run writes until Close, or an error.
func (g *gathered) run() {
	defer close(g.done)
	for {
		b := g.take()
		if b == nil {
			return
		}
		err := g.Conn.SetWriteDeadline(time.Now().Add(g.limit))
		if err == nil {
			_, err = g.Conn.Write(b)
		}
		g.mu.Lock()
		if cap(b) <= gatherKeep {
			g.spare = b[:0]
		}
		if err != nil {
			g.err = err
			g.changed.Broadcast()
		}
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take waits for something to write; nil means that there will be nothing more.
func (g *gathered) take() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.buf) == 0 && !g.closing {
		g.changed.Wait()
	}
	if len(g.buf) == 0 {
		return nil
	}
	b := g.buf
	g.buf, g.spare = g.spare, nil
	g.changed.Broadcast()
	return b
}

// Close writes what waits and closes the connection. The network has no longer for
// that than for any write.
func (g *gathered) Close() error {
	g.mu.Lock()
	g.closing = true
	g.changed.Broadcast()
	g.mu.Unlock()
	<-g.done
	return g.Conn.Close()
}

// SetWriteDeadline does nothing: writes do not wait for the network.
func (g *gathered) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is for reads only.
func (g *gathered) SetDeadline(t time.Time) error { return g.Conn.SetReadDeadline(t) }
