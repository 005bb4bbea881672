package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// hostile tries what a client does that wants to harm a hub: it may lose its own
// connection, and nobody else anything.
func (w *world) hostile(ctx context.Context, hub string) {
	mqtt := &checks{w, "hostile peer", "mqtt", hub}
	links := &checks{w, "hostile peer", "amqp", hub}
	run := func(c *checks, name string, f func(context.Context, *checks) (string, error)) {
		c.check(ctx, name, func(ctx context.Context) (string, error) {
			return c.unharmed(ctx, func(ctx context.Context) (string, error) { return f(ctx, c) })
		})
	}
	run(mqtt, "500 that stop within a CONNECT of 200 KiB", func(ctx context.Context, c *checks) (string, error) {
		head := append([]byte{1 << 4}, binary.AppendUvarint(nil, 200<<10)...)
		return w.halfSent(ctx, c, append(append(head, text("MQTT")...), bytes.Repeat([]byte{4}, 1000)...))
	})
	run(links, "500 that stop within a frame of 64 KiB", func(ctx context.Context, c *checks) (string, error) {
		return w.halfSent(ctx, c, append(bytes.Clone(amqpHeader), 0, 0, 0xff, 0xff, 2, 0, 0, 0, 0, 0x53, 0x10))
	})
	run(mqtt, "asks for its twin and does not read", w.slowMQTT)
	run(links, "asks for its twin and does not read", w.slowAMQP)
	run(links, "the same delivery id again", w.replayed)
	run(links, "more transfers than credit", w.overrun)
	if hub == hubEdge {
		mqtt.check(ctx, "refused logins are counted", w.refusalsCounted)
	}
}

// grown fails when a hub's memory has grown by more than some MiB.
func (w *world) grown(hub string, before, most int64) (string, error) {
	after, err := w.memory(hub)
	if err != nil {
		return "", err
	}
	note := fmt.Sprintf("memory %d to %d MiB", before>>20, after>>20)
	if after-before > most<<20 {
		return note, fmt.Errorf("%s: at most %d MiB more are right", note, most)
	}
	return note, nil
}

// halfSent opens connections that send a beginning and then nothing.
func (w *world) halfSent(ctx context.Context, c *checks, beginning []byte) (string, error) {
	const many = 500
	before, err := w.memory(c.hub)
	if err != nil {
		return "", err
	}
	conns, err := w.dialMany(ctx, c.hub, ports[c.transport], many, func(_ int, conn net.Conn) error {
		_, err := conn.Write(beginning)
		return err
	})
	defer closeAll(conns)
	if err != nil {
		return "", err
	}
	return w.grown(c.hub, before, 128)
}

// slowFor is how long a client does not read.
const slowFor = 5 * time.Second

// slowMQTT asks for a large twin again and again and reads no answer.
func (w *world) slowMQTT(ctx context.Context, c *checks) (string, error) {
	l := w.hostiles[c.hub]
	before, err := w.memory(c.hub)
	if err != nil {
		return "", err
	}
	conn, err := w.dialTLS(ctx, c.hub, portMQTT)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := accepted(conn, w.connectOf(l).packet()); err != nil {
		return "", err
	}
	patch := fmt.Sprintf(`{"big":["%s","%s"]}`, strings.Repeat("x", 4000), strings.Repeat("y", 4000))
	flood := concat(subscribe(1, "$iothub/twin/res/#", 0),
		publish(1, "$iothub/twin/PATCH/properties/reported/?$rid=p", 2, []byte(patch)))
	ask := bytes.Repeat(publish(0, "$iothub/twin/GET/?$rid=1", 0, nil), 100)
	return w.flood(c, before, conn, flood, ask)
}

// flood sends without reading, until the hub stops taking it, closes, has dropped a lot
// of it, or the time is over. What it sends may not make the hub grow.
func (w *world) flood(c *checks, before int64, conn net.Conn, first, again []byte) (string, error) {
	const enough = 64 << 20
	if err := conn.SetDeadline(time.Now().Add(slowFor)); err != nil {
		return "", err
	}
	sent := 0
	_, err := conn.Write(first)
	for err == nil && sent < enough {
		var n int
		n, err = conn.Write(again)
		sent += n
	}
	note, grown := w.grown(c.hub, before, 64)
	how := "closed"
	switch {
	case err == nil:
		how = "dropped with an error"
		grown = errors.Join(grown, awaitAnswer(conn, "amqp:")) // otherwise it would have answered all that
	case isTimeout(err):
		how = "not read on"
	}
	return fmt.Sprintf("%s after %d KiB, %s", how, sent>>10, note), grown
}

// plainLogin is SASL PLAIN, open, begin, of an identity.
func (w *world) plainLogin(l *login) []byte {
	hub, _, _ := strings.Cut(w.rig.CloudAddress(), ".")
	response := "\x00" + strings.TrimPrefix(l.path(), "/devices/") + "@sas." + hub + "\x00" + l.token(time.Now().Add(time.Hour))
	init := frame(0, 0x41, append([]byte{0xa3, 5}, "PLAIN"...), append(binary.BigEndian.AppendUint32([]byte{0xb0}, uint32(len(response))), response...))
	init[5] = 1 // a SASL frame
	return concat(saslHeader, init, amqpHeader, amqpOpen(), frame(0, codeBegin, null, uintValue(0), uintValue(5000), uintValue(5000)))
}

// transfer is one of a link, with a delivery id of its choice.
func transfer(handle, delivery uint32, body []byte) []byte {
	section := append([]byte{0x00, 0x53, 0x75, 0xb0}, binary.BigEndian.AppendUint32(nil, uint32(len(body)))...)
	head := frame(0, codeTransfer, uintValue(handle), uintValue(delivery), append([]byte{0xa0, 4}, binary.BigEndian.AppendUint32(nil, delivery)...), uintValue(0), no)
	all := append(append(head, section...), body...)
	binary.BigEndian.PutUint32(all, uint32(len(all)))
	return all
}

// attachReceiver is a receiving link from an address.
func attachReceiver(handle uint32, name, address string) []byte {
	return frame(0, codeAttach, str(name), uintValue(handle), isTrue, null, null, terminus(0x28, address), terminus(0x29, "me"))
}

// awaitAnswer reads until the answer has what is wanted.
func awaitAnswer(conn net.Conn, want ...string) error {
	if err := conn.SetReadDeadline(time.Now().Add(answerLimit)); err != nil {
		return err
	}
	var got []byte
	for buf := make([]byte, 64<<10); !containsAll(got, want); {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil && !containsAll(got, want) {
			return fmt.Errorf("answer %.300q has not %q: %w", got[max(0, len(got)-300):], want, err)
		}
	}
	return nil
}

// slowAMQP gives great credit, asks for the twin again and again and reads no answer.
func (w *world) slowAMQP(ctx context.Context, c *checks) (string, error) {
	l := w.hostiles[c.hub]
	before, err := w.memory(c.hub)
	if err != nil {
		return "", err
	}
	conn, err := w.dialTLS(ctx, c.hub, portAMQP)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	flow := frame(0, codeFlow, uintValue(0), uintValue(1<<30), uintValue(0), uintValue(1<<30), uintValue(1), uintValue(0), uintValue(1<<30))
	if _, err := conn.Write(concat(w.plainLogin(l), attachSender("ask", l.path()+"/twin"), attachReceiver(1, "answers", l.path()+"/twin"), flow)); err != nil {
		return "", err
	}
	if err := awaitAnswer(conn, "ask", "answers"); err != nil {
		return "", err
	}
	var again []byte
	for i := range uint32(100) { // settled by nobody: a delivery id each
		again = append(again, twinGet(i)...)
	}
	return w.flood(c, before, conn, nil, again)
}

// twinGet is a settled transfer on handle 0 that asks for the twin.
func twinGet(delivery uint32) []byte {
	operation := concat([]byte{0xa3, 9}, []byte("operation"), str("GET"))
	annotations := concat([]byte{0x00, 0x53, 0x72, 0xc1, byte(len(operation) + 1), 2}, operation)
	properties := concat([]byte{0x00, 0x53, 0x73, 0xc0, 9, 6, 0x40, 0x40, 0x40, 0x40, 0x40}, []byte{0xa1, 1, 'c'})
	head := frame(0, codeTransfer, uintValue(0), uintValue(delivery), append([]byte{0xa0, 4}, binary.BigEndian.AppendUint32(nil, delivery)...), uintValue(0), isTrue)
	all := concat(head, annotations, properties, []byte{0x00, 0x53, 0x75, 0xa0, 0})
	binary.BigEndian.PutUint32(all, uint32(len(all)))
	return all
}

// replayed sends deliveries that all have the same id, none of which is settled yet.
func (w *world) replayed(ctx context.Context, c *checks) (string, error) {
	return "", w.transfers(ctx, c, func(int) uint32 { return 0 }, 50, "amqp:invalid-field")
}

// overrun sends more than there is credit for, all at once.
func (w *world) overrun(ctx context.Context, c *checks) (string, error) {
	return "", w.transfers(ctx, c, func(i int) uint32 { return uint32(i) }, 20000, "amqp:")
}

func (w *world) transfers(ctx context.Context, c *checks, id func(int) uint32, n int, want string) error {
	l := w.hostiles[c.hub]
	conn, err := w.dialTLS(ctx, c.hub, portAMQP)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(concat(w.plainLogin(l), attachSender("events", l.path()+"/messages/events"))); err != nil {
		return err
	}
	if err := awaitAnswer(conn, "events", "\x00\x53\x13"); err != nil { // attached, and a flow
		return err
	}
	var all []byte
	for i := range n {
		all = append(all, transfer(0, id(i), []byte(`"again"`))...)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close() // before the wait
	wg.Go(func() { _, _ = conn.Write(all) })
	return awaitAnswer(conn, want)
}

// refusalsCounted tries bad logins and reads edgehub's counter of them.
func (w *world) refusalsCounted(ctx context.Context) (string, error) {
	const name = "edgehub_client_connect_failed_total"
	before, err := w.counter(ctx, name)
	if err != nil {
		return "", err
	}
	l := *w.hostiles[hubEdge]
	l.key = newKey()
	for range 5 {
		if err := w.exchange(ctx, hubEdge, portMQTT, exchange{send: w.connectOf(&l).packet(), want: connack(5), ends: true}); err != nil {
			return "", err
		}
	}
	after, err := w.counter(ctx, name)
	if err == nil && after-before != 5 {
		err = fmt.Errorf("%s went from %v to %v after 5 bad logins", name, before, after)
	}
	return "", err
}

// counter is the sum of a metric of edgehub.
func (w *world) counter(ctx context.Context, name string) (float64, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, w.rig.MetricsURL(), nil)
	if err != nil {
		return 0, err
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, line := range strings.Split(string(raw), "\n") {
		if !strings.HasPrefix(line, name) {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
			return 0, fmt.Errorf("metric %q: %w", line, err)
		}
		sum += v
	}
	return sum, nil
}
