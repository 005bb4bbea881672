package conformance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
)

// dialers is how many connections are made at a time.
const dialers = 32

// dialMany opens connections and lets each do something. They are returned also with
// an error.
func (w *world) dialMany(ctx context.Context, hub, port string, n int, each func(i int, conn net.Conn) error) ([]net.Conn, error) {
	config := w.tls(hub)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1) // so many full handshakes only cost time
	var mu sync.Mutex
	var conns []net.Conn
	var first error
	var next atomic.Int64
	var wg sync.WaitGroup
	for range dialers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				mu.Lock()
				stop := first != nil
				mu.Unlock()
				if i >= n || stop {
					return
				}
				conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", net.JoinHostPort(w.address(hub), port))
				if err == nil {
					if err = conn.SetDeadline(time.Now().Add(answerLimit)); err == nil {
						err = each(i, conn)
					}
				}
				mu.Lock()
				if conn != nil {
					conns = append(conns, conn)
				}
				if err != nil && first == nil {
					first = fmt.Errorf("connection %d: %w", i, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return conns, first
}

func closeAll(conns []net.Conn) {
	var wg sync.WaitGroup
	work := make(chan net.Conn)
	for range dialers {
		wg.Go(func() {
			for c := range work {
				c.Close()
			}
		})
	}
	for _, c := range conns {
		work <- c
	}
	close(work)
	wg.Wait()
}

// crowd are the devices of the many connections.
type crowd []*login

// mostChildren is how many of them stand below the edge device, and edgehub is told to
// let in.
const mostChildren = 1000

// crowd registers n devices for a hub, or as many as it can have.
func (w *world) crowd(ctx context.Context, hub string, n int) (crowd, error) {
	if hub == hubEdge {
		n = min(n, mostChildren)
	}
	all := make(crowd, n)
	key := newKey() // one for all: what it costs is not the question
	errs := make([]error, dialers)
	var next atomic.Int64
	var wg sync.WaitGroup
	for k := range dialers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[k] == nil; i = int(next.Add(1)) - 1 {
				id := fmt.Sprintf("crowd-%s-%d", hub, i)
				all[i] = &login{device: id, key: key, resource: w.rig.CloudAddress() + "/devices/" + id}
				doc := map[string]any{"deviceId": id, "status": "enabled", "authentication": hubrig.SymmetricKey(key)}
				w.place(hub, doc, all[i])
				errs[k] = w.rig.Put(ctx, "devices/"+id, "", doc, nil)
			}
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// mostPerConnection is what an idle connection may cost a hub, in KiB: TLS, buffers
// and the stacks of a few goroutines.
const mostPerConnection = 192

// enoughToTell is how many connections it takes until their memory stands out of what
// the collector has yet to free.
const enoughToTell = 1000

// idle opens the many connections on each head, not logged in and logged in.
func (w *world) idle(ctx context.Context, hub string, people crowd) {
	kinds := []struct {
		transport, name string
		n               int
		each            func(i int, conn net.Conn) error
	}{
		{"mqtt", "not logged in", w.o.Idle, func(int, net.Conn) error { return nil }},
		{"mqtt", "logged in", len(people), func(i int, conn net.Conn) error {
			c := w.connectOf(people[i])
			c.keepAlive = 600
			return accepted(conn, c.packet())
		}},
		{"amqp", "not logged in", w.o.Idle, func(_ int, conn net.Conn) error {
			if _, err := conn.Write(concat(amqpHeader, amqpOpen())); err != nil {
				return err
			}
			return awaitAnswer(conn, "\x00\x53\x10")
		}},
		{"amqp", "logged in", len(people), func(i int, conn net.Conn) error {
			l := people[i]
			if _, err := conn.Write(concat(w.plainLogin(l), attachSender("t", l.path()+"/messages/events"))); err != nil {
				return err
			}
			return awaitAnswer(conn, "\x00\x53\x12", "\x00\x53\x13")
		}},
	}
	for _, k := range kinds {
		c := &checks{w, "hostile peer", k.transport, hub}
		c.check(ctx, fmt.Sprintf("%d idle connections, %s", k.n, k.name), func(ctx context.Context) (string, error) {
			// Anew, so that it does not make do with memory of the crowd before.
			if err := w.restart(ctx, hub); err != nil {
				return "", err
			}
			if err := w.known(ctx, hub, people[len(people)-1]); err != nil {
				return "", err
			}
			return c.unharmed(ctx, func(ctx context.Context) (string, error) { return w.crowdConnects(ctx, c, k.n, k.each) })
		})
	}
}

func (w *world) crowdConnects(ctx context.Context, c *checks, n int, each func(int, net.Conn) error) (string, error) {
	before, err := w.memory(c.hub)
	if err != nil {
		return "", err
	}
	began := time.Now()
	conns, err := w.dialMany(ctx, c.hub, ports[c.transport], n, each)
	took := time.Since(began)
	after, memErr := w.memory(c.hub)
	closeAll(conns)
	if err = errors.Join(err, memErr); err != nil {
		return "", fmt.Errorf("%d connections: %w", len(conns), err)
	}
	each1 := float64(after-before) / float64(n) / 1024
	note := fmt.Sprintf("%.1f KiB a connection (%d to %d MiB), made in %.0f s", each1, before>>20, after>>20, took.Seconds())
	if n >= enoughToTell && each1 > mostPerConnection {
		return note, fmt.Errorf("%s: more than %d KiB", note, mostPerConnection)
	}
	return note, nil
}

// known waits until a hub lets a device log in: edgehub has to hear of it first.
func (w *world) known(ctx context.Context, hub string, l *login) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := w.exchange(ctx, hub, portMQTT, exchange{send: w.connectOf(l).packet(), want: connack(0)})
		if err == nil {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("%s does not let %s in: %w", hub, l.id(), err)
		}
	}
}

// idleAll opens the connections of both hubs.
func (w *world) idleAll(ctx context.Context) {
	for _, hub := range hubs {
		people, err := w.crowd(ctx, hub, w.o.Idle)
		if err != nil {
			c := &checks{w, "hostile peer", "mqtt", hub}
			c.check(ctx, "idle connections", func(context.Context) (string, error) { return "", err })
			continue
		}
		w.idle(ctx, hub, people)
	}
}
