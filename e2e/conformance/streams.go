package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// recorder keeps what a client writes.
type recorder struct {
	net.Conn
	mu      sync.Mutex
	written [][]byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	r.written = append(r.written, bytes.Clone(b))
	r.mu.Unlock()
	return r.Conn.Write(b)
}

// stream is what a client has written in one connection: the part that logs in, and
// what followed.
type stream struct{ login, rest []byte }

// recordMQTT is a conversation of a client that logs in, subscribes, publishes.
func (w *world) recordMQTT(ctx context.Context, hub string) (stream, error) {
	l := w.hostiles[hub]
	var tape *recorder
	o := w.mqttOptions(hub, l)
	o.Wrap = func(c net.Conn) net.Conn { tape = &recorder{Conn: c}; return tape }
	client, err := mqttload.Dial(ctx, o)
	if err != nil {
		return stream{}, err
	}
	defer client.Close()
	var acks sync.WaitGroup
	for i := range 5 {
		acks.Add(1)
		if err := client.Publish(telemetryTopic(l), fmt.Appendf(nil, `{"recorded":%d}`, i), acks.Done); err != nil {
			return stream{}, err
		}
	}
	if err := client.Flush(); err != nil {
		return stream{}, err
	}
	acks.Wait()
	for _, filter := range []string{"$iothub/twin/res/#", "$iothub/methods/POST/#"} {
		if err := client.Subscribe(ctx, filter); err != nil {
			return stream{}, err
		}
	}
	rest := bytes.Join(tape.written[1:], nil)
	rest = append(rest, publish(0, "$iothub/twin/GET/?$rid=1", 0, nil)...)
	rest = append(rest, publish(1, "$iothub/twin/PATCH/properties/reported/?$rid=2", 99, []byte(`{"a":{"b":1}}`))...)
	return stream{login: tape.written[0], rest: append(rest, 12<<4, 0)}, nil
}

// recordAMQP is a conversation of go-amqp: token, telemetry, a receiver.
func (w *world) recordAMQP(ctx context.Context, hub string) (stream, error) {
	raw, err := w.dialTLS(ctx, hub, portAMQP)
	if err != nil {
		return stream{}, err
	}
	tape := &recorder{Conn: raw}
	conn, err := amqp.NewConn(ctx, tape, nil)
	if err != nil {
		return stream{}, err
	}
	defer conn.Close()
	l := w.hostiles[hub]
	if err := putToken(ctx, conn, l.token(time.Now().Add(time.Hour))); err != nil {
		return stream{}, err
	}
	tape.mu.Lock()
	login := bytes.Join(tape.written, nil)
	before := len(tape.written)
	tape.mu.Unlock()
	session, err := conn.NewSession(ctx, nil)
	if err != nil {
		return stream{}, err
	}
	sender, err := session.NewSender(ctx, l.path()+"/messages/events", nil)
	if err != nil {
		return stream{}, err
	}
	for range 5 {
		m := amqp.NewMessage([]byte(`{"recorded":true}`))
		m.ApplicationProperties = map[string]any{"iothub-outputname": output, "n": int64(5), "f": 1.5}
		if err := sender.Send(ctx, m, nil); err != nil {
			return stream{}, err
		}
	}
	if _, err := session.NewReceiver(ctx, l.path()+"/methods/devicebound", nil); err != nil {
		return stream{}, err
	}
	tape.mu.Lock()
	defer tape.mu.Unlock()
	return stream{login: login, rest: bytes.Join(tape.written[before:], nil)}, nil
}

// mutate changes a stream in a few places.
func mutate(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + r.IntN(4) {
		if len(b) < 2 {
			return append(b, byte(r.Uint32()))
		}
		i, j := r.IntN(len(b)), r.IntN(len(b))
		i, j = min(i, j), max(i, j)
		switch r.IntN(8) {
		case 0:
			b[i] ^= 1 << r.IntN(8)
		case 1:
			b[i] = byte(r.Uint32())
		case 2:
			b = b[:j]
		case 3:
			b = append(b[:i:i], b[j:]...)
		case 4:
			b = bytes.Join([][]byte{b[:j], b[i:]}, nil)
		case 5:
			junk := make([]byte, 1+r.IntN(200))
			for k := range junk {
				junk[k] = byte(r.Uint32())
			}
			b = bytes.Join([][]byte{b[:i], junk, b[i:]}, nil)
		case 6: // numbers that are the greatest
			for k := i; k < min(i+1+r.IntN(4), len(b)); k++ {
				b[k] = 0xff
			}
		case 7:
			for k := i; k < min(i+1+r.IntN(4), len(b)); k++ {
				b[k] = 0
			}
		}
	}
	return b
}

// mutations is how many mutated streams of each kind are sent.
const mutations = 400

// mutated sends mutated recordings, before and after login, over MQTT and AMQP.
func (w *world) mutated(ctx context.Context, hub string) {
	for transport, record := range map[string]func(context.Context, string) (stream, error){"mqtt": w.recordMQTT, "amqp": w.recordAMQP} {
		c := &checks{w, "mutated streams", transport, hub}
		for i, name := range []string{"before login", "after login"} {
			r := rand.New(rand.NewPCG(w.o.Seed, uint64(i)))
			c.check(ctx, fmt.Sprintf("%d %s", mutations, name), func(ctx context.Context) (string, error) {
				tape, err := record(ctx, hub)
				if err != nil {
					return "", fmt.Errorf("record: %w", err)
				}
				return c.unharmed(ctx, func(ctx context.Context) (string, error) {
					return w.sendMutated(ctx, c, tape, r, i == 1)
				})
			})
		}
	}
}

// sendMutated sends them, several at once, and then a good one, which must work.
func (w *world) sendMutated(ctx context.Context, c *checks, tape stream, r *rand.Rand, loggedIn bool) (string, error) {
	before, err := w.memory(c.hub)
	if err != nil {
		return "", err
	}
	var wg sync.WaitGroup
	var ended, refused atomic.Int64
	work := make(chan []byte)
	for range 8 {
		wg.Go(func() {
			for b := range work {
				switch err := w.throw(ctx, c, b); {
				case err == nil:
					ended.Add(1)
				case !errors.Is(err, os.ErrDeadlineExceeded):
					refused.Add(1)
				}
			}
		})
	}
	for range mutations {
		b := mutate(r, append(bytes.Clone(tape.login), tape.rest...))
		if loggedIn {
			b = append(bytes.Clone(tape.login), mutate(r, tape.rest)...)
		}
		work <- b
	}
	close(work)
	wg.Wait()
	after, err := w.memory(c.hub)
	if err != nil {
		return "", err
	}
	note := fmt.Sprintf("%d closed by the hub, memory %d to %d MiB", ended.Load(), before>>20, after>>20)
	if grown := (after - before) >> 20; grown > 256 {
		return note, fmt.Errorf("memory has grown by %d MiB", grown)
	}
	if refused.Load() > mutations/4 {
		return note, fmt.Errorf("%d connections could not be made", refused.Load())
	}
	return note, nil
}

// throw sends bytes and waits until the hub closes, or for a moment.
func (w *world) throw(ctx context.Context, c *checks, b []byte) error {
	conn, err := w.dialTLS(ctx, c.hub, ports[c.transport])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return nil //nolint:nilerr // it was closed before all was sent
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}
