package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/Azure/go-amqp"
)

// putToken gives a hub a token over $cbs, as SDKs do.
func putToken(ctx context.Context, conn *amqp.Conn, token string) error {
	session, err := conn.NewSession(ctx, nil)
	if err != nil {
		return err
	}
	defer session.Close(ctx) //nolint:errcheck // the links' errors tell more
	sender, err := session.NewSender(ctx, "$cbs", nil)
	if err != nil {
		return fmt.Errorf("$cbs: %w", err)
	}
	receiver, err := session.NewReceiver(ctx, "$cbs", nil)
	if err != nil {
		return fmt.Errorf("$cbs: %w", err)
	}
	replyTo, to := "cbs", "$cbs"
	m := &amqp.Message{
		Properties: &amqp.MessageProperties{To: &to, ReplyTo: &replyTo, MessageID: "m1"},
		ApplicationProperties: map[string]any{
			"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": "conformance",
		},
		Value: token,
	}
	if err := sender.Send(ctx, m, nil); err != nil {
		return fmt.Errorf("put-token: %w", err)
	}
	answer, err := receiver.Receive(ctx, nil)
	if err != nil {
		return fmt.Errorf("answer to put-token: %w", err)
	}
	if err := receiver.AcceptMessage(ctx, answer); err != nil {
		return err
	}
	if answer.Properties == nil || answer.Properties.CorrelationID != "m1" {
		return fmt.Errorf("answer to put-token has properties %+v", answer.Properties)
	}
	if status, ok := answer.ApplicationProperties["status-code"].(int32); !ok || status != 200 && status != 202 {
		return fmt.Errorf("put-token: status %v (%T): %v", answer.ApplicationProperties["status-code"],
			answer.ApplicationProperties["status-code"], answer.ApplicationProperties["status-description"])
	}
	return nil
}

// goAMQP is what the checks of go-amqp share.
type goAMQP struct {
	*checks
	l *login
}

func (g *goAMQP) dial(ctx context.Context, o *amqp.ConnOptions) (*amqp.Conn, error) {
	raw, err := g.w.dialTLS(ctx, g.hub, portAMQP)
	if err != nil {
		return nil, err
	}
	return g.open(ctx, raw, o)
}

func (g *goAMQP) open(ctx context.Context, raw net.Conn, o *amqp.ConnOptions) (*amqp.Conn, error) {
	if o == nil {
		o = new(amqp.ConnOptions)
	}
	o.HostName = g.w.address(g.hub)
	return amqp.NewConn(ctx, raw, o)
}

// session is one on a connection with a token.
func (g *goAMQP) session(ctx context.Context, o *amqp.ConnOptions) (*amqp.Conn, *amqp.Session, error) {
	conn, err := g.dial(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	if err := putToken(ctx, conn, g.l.token(time.Now().Add(time.Hour))); err != nil {
		return conn, nil, errors.Join(err, conn.Close())
	}
	session, err := conn.NewSession(ctx, nil)
	return conn, session, err
}

func (g *goAMQP) events() string { return g.l.path() + "/messages/events" }

// message is one that can be told from all others, and what must arrive of it.
func (g *goAMQP) message(body []byte) (*amqp.Message, arrival) {
	id := rand.Text()
	m := amqp.NewMessage(body)
	m.Properties = &amqp.MessageProperties{MessageID: id}
	m.ApplicationProperties = map[string]any{"case": id}
	if g.l.module != "" {
		m.ApplicationProperties["iothub-outputname"] = output
	}
	return m, arrival{Case: id, Origin: g.l.device, Module: g.l.module, System: map[string]string{"message_id": id}, Text: string(body)}
}

// send sends so many messages over a link and has them arrive, in order.
func (g *goAMQP) send(ctx context.Context, session *amqp.Session, n int, body []byte, o *amqp.SenderOptions) error {
	sender, err := session.NewSender(ctx, g.events(), o)
	if err != nil {
		return err
	}
	var list []arrival
	for range n {
		m, arrives := g.message(body)
		if err := sender.Send(ctx, m, nil); err != nil {
			return err
		}
		list = append(list, arrives)
	}
	if err := sender.Close(ctx); err != nil {
		return err
	}
	return g.w.ledger.check(list, true)
}

func (w *world) goAMQP(ctx context.Context, hub string) {
	g := &goAMQP{&checks{w, "go-amqp", "amqp", hub}, w.peers["go-amqp "+hub]}
	sending := func(name string, n int, body []byte, co func() *amqp.ConnOptions, so *amqp.SenderOptions) {
		g.check(ctx, name, func(ctx context.Context) (string, error) {
			conn, session, err := g.session(ctx, co())
			if err != nil {
				return "", err
			}
			defer conn.Close()
			return "", g.send(ctx, session, n, body, so)
		})
	}
	plain := func() *amqp.ConnOptions { return nil }
	text := []byte("plain text")
	sending("sender: mixed", 50, text, plain, nil)
	sending("sender: unsettled", 50, text, plain, &amqp.SenderOptions{SettlementMode: amqp.SenderSettleModeUnsettled.Ptr()})
	sending("sender: settled", 50, text, plain, &amqp.SenderOptions{SettlementMode: amqp.SenderSettleModeSettled.Ptr()})
	sending("255 KiB in frames of 512 bytes", 3, bytes.Repeat([]byte("x"), 255<<10), func() *amqp.ConnOptions { return &amqp.ConnOptions{MaxFrameSize: 512} }, nil)
	sending("SASL ANONYMOUS, then a token", 1, text, func() *amqp.ConnOptions { return &amqp.ConnOptions{SASLType: amqp.SASLTypeAnonymous()} }, nil)
	hubName, _, _ := strings.Cut(w.rig.CloudAddress(), ".")
	g.check(ctx, "SASL PLAIN with a token", func(ctx context.Context) (string, error) {
		user := strings.TrimPrefix(g.l.path(), "/devices/") + "@sas." + hubName
		conn, err := g.dial(ctx, &amqp.ConnOptions{SASLType: amqp.SASLTypePlain(user, g.l.token(time.Now().Add(time.Hour)))})
		if err != nil {
			return "", err
		}
		defer conn.Close()
		session, err := conn.NewSession(ctx, nil)
		if err != nil {
			return "", err
		}
		return "", g.send(ctx, session, 1, text, nil)
	})
	g.check(ctx, "batch of 3 (0x80013700)", g.batch)
	g.check(ctx, "300 KiB refused", g.tooLarge)
	g.check(ctx, "100 links at once", g.manyLinks)
	g.check(ctx, "bad token refused, the good one goes on", g.badToken)
	g.check(ctx, "address of somebody else refused", g.foreign)
	g.check(ctx, "heartbeats for a silent client, one each second", g.heartbeats)
	g.check(ctx, "twin get with no credit, then with credit", g.starved)
	g.check(ctx, "reattach after detach", g.reattach)
	g.check(ctx, "takeover: the older connection is closed", g.takeover)
}

func (g *goAMQP) batch(ctx context.Context) (string, error) {
	conn, session, err := g.session(ctx, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	outer := &amqp.Message{Format: 0x80013700}
	var list []arrival
	for i := range 3 {
		m, arrives := g.message(fmt.Appendf(nil, "inner %d", i))
		raw, err := m.MarshalBinary()
		if err != nil {
			return "", err
		}
		outer.Data = append(outer.Data, raw)
		list = append(list, arrives)
	}
	sender, err := session.NewSender(ctx, g.events(), nil)
	if err != nil {
		return "", err
	}
	if err := sender.Send(ctx, outer, nil); err != nil {
		return "", err
	}
	return "", g.w.ledger.check(list, true)
}

func (g *goAMQP) tooLarge(ctx context.Context) (string, error) {
	conn, session, err := g.session(ctx, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	sender, err := session.NewSender(ctx, g.events(), nil)
	if err != nil {
		return "", err
	}
	m, arrives := g.message(make([]byte, 300<<10))
	err = sender.Send(ctx, m, nil)
	if err == nil {
		return "", errors.New("it was accepted")
	}
	if !strings.Contains(err.Error(), "message-size-exceeded") && !strings.Contains(err.Error(), "exceeds max message size") {
		return "", err
	}
	return "", g.w.ledger.absent([]string{arrives.Case})
}

func (g *goAMQP) manyLinks(ctx context.Context) (string, error) {
	conn, session, err := g.session(ctx, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	var senders []*amqp.Sender
	for i := range 100 {
		s, err := session.NewSender(ctx, g.events(), nil)
		if err != nil {
			return "", fmt.Errorf("link %d: %w", i, err)
		}
		senders = append(senders, s)
	}
	// The hub keeps one link of each kind for an identity: the newest must work.
	m, arrives := g.message([]byte("last"))
	if err := senders[99].Send(ctx, m, nil); err != nil {
		return "", err
	}
	return "", g.w.ledger.check([]arrival{arrives}, false)
}

func (g *goAMQP) badToken(ctx context.Context) (string, error) {
	conn, session, err := g.session(ctx, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	other := *g.l
	other.key = newKey()
	if err := putToken(ctx, conn, other.token(time.Now().Add(time.Hour))); err == nil || !strings.Contains(err.Error(), "status 401") {
		return "", fmt.Errorf("token of a wrong key: %w", errors.Join(errors.New("not 401"), err))
	}
	if err := putToken(ctx, conn, "nonsense"); err == nil {
		return "", errors.New("nonsense was taken for a token")
	}
	return "", g.send(ctx, session, 1, []byte("still there"), nil)
}

func (g *goAMQP) foreign(ctx context.Context) (string, error) {
	conn, session, err := g.session(ctx, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_, err = session.NewSender(ctx, "/devices/canary/messages/events", nil)
	var refused *amqp.Error
	if !errors.As(err, &refused) || refused.Condition != amqp.ErrCondUnauthorizedAccess {
		return "", fmt.Errorf("want unauthorized-access: %w", errors.Join(errors.New("attach of a foreign address"), err))
	}
	return "", g.send(ctx, session, 1, []byte("own"), nil)
}

// starved asks for the twin while its receiving link has no credit.
func (g *goAMQP) starved(ctx context.Context) (string, error) {
	conn, session, err := g.session(ctx, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	props := map[string]any{"com.microsoft:channel-correlation-id": "twin:1", "com.microsoft:api-version": "2021-04-12"}
	sender, err := session.NewSender(ctx, g.l.path()+"/twin", &amqp.SenderOptions{Properties: props, SettlementMode: amqp.SenderSettleModeSettled.Ptr()})
	if err != nil {
		return "", err
	}
	receiver, err := session.NewReceiver(ctx, g.l.path()+"/twin", &amqp.ReceiverOptions{
		Properties: props, Credit: -1, SettlementMode: amqp.ReceiverSettleModeFirst.Ptr(),
		RequestedSenderSettleMode: amqp.SenderSettleModeSettled.Ptr(),
	})
	if err != nil {
		return "", err
	}
	for i := range 10 {
		m := &amqp.Message{Properties: &amqp.MessageProperties{CorrelationID: fmt.Sprint("c", i)},
			Annotations: amqp.Annotations{"operation": "GET"}, Data: [][]byte{[]byte(" ")}}
		if err := sender.Send(ctx, m, nil); err != nil {
			return "", err
		}
	}
	none, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if m, err := receiver.Receive(none, nil); err == nil {
		return "", fmt.Errorf("%v came without credit", m.Properties.CorrelationID)
	}
	if err := receiver.IssueCredit(10); err != nil {
		return "", err
	}
	for i := range 10 {
		m, err := receiver.Receive(ctx, nil)
		if err != nil {
			return "", fmt.Errorf("answer %d: %w", i, err)
		}
		if status, ok := m.Annotations["status"].(int32); !ok || status != 200 {
			return "", fmt.Errorf("answer %d: status %v (%T)", i, m.Annotations["status"], m.Annotations["status"])
		}
	}
	return "", nil
}

func (g *goAMQP) reattach(ctx context.Context) (string, error) {
	conn, session, err := g.session(ctx, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	for range 20 {
		if err := g.send(ctx, session, 1, []byte("again"), &amqp.SenderOptions{Name: "the same name"}); err != nil {
			return "", err
		}
	}
	return "", nil
}

// takeover logs in twice.
func (g *goAMQP) takeover(ctx context.Context) (string, error) {
	first, session, err := g.session(ctx, nil)
	if err != nil {
		return "", err
	}
	defer first.Close()
	if err := g.send(ctx, session, 1, []byte("older"), nil); err != nil {
		return "", err
	}
	if _, err := session.NewSender(ctx, g.events(), nil); err != nil {
		return "", err
	}
	second, session, err := g.session(ctx, nil)
	if err != nil {
		return "", err
	}
	defer second.Close()
	if err := g.send(ctx, session, 1, []byte("newer"), nil); err != nil {
		return "", err
	}
	select {
	case <-first.Done():
	case <-time.After(answerLimit):
		return "", fmt.Errorf("the older connection is there after %v", answerLimit)
	}
	var closed *amqp.ConnError
	if err := first.Err(); !errors.As(err, &closed) || closed.RemoteErr == nil {
		return "", fmt.Errorf("it ended without a reason: %w", err)
	}
	return string(closed.RemoteErr.Condition), nil
}
