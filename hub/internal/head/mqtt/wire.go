package mqtt

import (
	"net"
	"sync"
	"time"
)

// wire is the network connection that mochi gets to see. It replaces mochi's idea
// of deadlines: reading ends after the idle time, every write has a time limit of
// its own, and interrupt ends both at once without blocking.
//
// Writes may come from several goroutines; each carries whole packets.
type wire struct {
	net.Conn
	client       *client
	writeTimeout time.Duration

	mu          sync.Mutex
	idle        time.Duration // 0: not admitted yet, the read deadline is left alone
	extended    time.Time     // when the read deadline was last moved
	interrupted bool
}

// SetDeadline is called by mochi before it reads a packet. The time that mochi
// wants does not count.
func (w *wire) SetDeadline(time.Time) error {
	w.extend()
	return nil
}

// admit starts the idle clock; before, the deadline of the connect phase holds.
func (w *wire) admit(idle time.Duration) {
	w.mu.Lock()
	w.idle = idle
	w.mu.Unlock()
	w.extend()
}

// extend restarts the idle clock. So that not every packet costs a timer, it is
// left alone for a small part of the idle time, which is added to the deadline.
func (w *wire) extend() {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	slack := w.idle / 32
	if w.idle == 0 || w.interrupted || now.Sub(w.extended) < slack {
		return
	}
	w.extended = now
	_ = w.Conn.SetReadDeadline(now.Add(w.idle + slack)) // fails only on a closed connection
}

// Read is where mochi waits when it has handled all that the client has sent.
func (w *wire) Read(b []byte) (int, error) {
	w.client.pauses()
	return w.Conn.Read(b)
}

// Write sends b within the write timeout.
func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	if w.interrupted {
		w.mu.Unlock()
		return 0, net.ErrClosed
	}
	err := w.Conn.SetWriteDeadline(time.Now().Add(w.writeTimeout))
	w.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return w.Conn.Write(b)
}

// interrupt makes reads and writes fail from now on, those in progress too. It
// leaves the connection open, so that closing it can still say goodbye in TLS.
func (w *wire) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.interrupted {
		w.interrupted = true
		_ = w.Conn.SetDeadline(time.Unix(1, 0))
	}
}
