package conformance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/Azure/go-amqp"
)

// idleTimeout is what the hub is told that its client waits for a frame.
const idleTimeout = time.Second

// heartbeats has the client be silent until the hub has sent a number of heartbeats. It
// must have sent one in each idle time on the average. That a single one is not late
// cannot be judged here, on a machine with other work: the tests of the hub's engine
// do, in virtual time. So the client's own limit, which is twice that, is switched off.
func (g *goAMQP) heartbeats(ctx context.Context) (string, error) {
	const want = 12
	raw, err := g.w.dialTLS(ctx, g.hub, portAMQP)
	if err != nil {
		return "", err
	}
	beats := &beating{Conn: raw, heard: make(chan time.Time, 10*want)}
	conn, err := g.open(ctx, beats, &amqp.ConnOptions{IdleTimeout: 2 * idleTimeout}) // it names half of it
	if err != nil {
		return "", err
	}
	defer conn.Close()
	began, limit := time.Now(), time.NewTimer(want*idleTimeout)
	defer limit.Stop()
	longest, last := time.Duration(0), began
	for n := range want {
		select {
		case at := <-beats.heard:
			longest, last = max(longest, at.Sub(last)), at
		case <-limit.C:
			return "", fmt.Errorf("%d heartbeats in %v", n, want*idleTimeout)
		case <-conn.Done():
			return "", fmt.Errorf("the connection ended: %w", errors.Join(errors.New("without a word"), conn.Err()))
		}
	}
	note := fmt.Sprintf("%d in %.1f s, longest wait %.1f s", want, last.Sub(began).Seconds(), longest.Seconds())
	if err := putToken(ctx, conn, g.l.token(time.Now().Add(time.Hour))); err != nil {
		return note, err
	}
	session, err := conn.NewSession(ctx, nil)
	if err != nil {
		return note, err
	}
	return note, g.send(ctx, session, 1, []byte("after"), nil)
}

// beating is a connection that tells of the empty frames that come in, and has no
// deadline for reading.
type beating struct {
	net.Conn
	heard chan time.Time // full: more are not told

	head []byte // of the frame that comes next
	skip int    // bytes left of the one before
}

// SetReadDeadline does nothing.
func (*beating) SetReadDeadline(time.Time) error { return nil }

func (b *beating) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	b.look(p[:n])
	return n, err
}

func (b *beating) look(p []byte) {
	for len(p) > 0 {
		if b.skip > 0 {
			n := min(b.skip, len(p))
			b.skip, p = b.skip-n, p[n:]
			continue
		}
		n := min(8-len(b.head), len(p))
		b.head, p = append(b.head, p[:n]...), p[n:]
		if len(b.head) < 8 {
			return
		}
		if string(b.head[:4]) != "AMQP" { // a protocol header
			if b.skip = int(binary.BigEndian.Uint32(b.head)) - 8; b.skip == 0 {
				select {
				case b.heard <- time.Now():
				default:
				}
			}
		}
		b.head = b.head[:0]
	}
}
