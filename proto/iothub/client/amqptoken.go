package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/Azure/go-amqp"
)

// tokenNode is the hub's node for tokens ($cbs, iothub-amqp.md 4) as one connection
// sees it. Its links are attached when the first token is put, and again if they
// have been lost. Requests are pipelined.
type tokenNode struct {
	conn    *amqpConn
	opening chan struct{} // held by the one open under way
	reader  sync.WaitGroup

	mu      sync.Mutex
	links   *tokenLinks // nil before the first and after the loss
	lastID  uint64
	waiting map[string]chan tokenAnswer
}

// tokenLinks is a pair of links in a session of its own.
type tokenLinks struct {
	session  *amqp.Session
	sender   *amqp.Sender
	receiver *amqp.Receiver
}

type tokenAnswer struct {
	status int
	words  string
	lost   bool // there is no answer
}

// tokenCredit is how many answers may be on their way.
const tokenCredit = 100

func (n *tokenNode) init(c *amqpConn) {
	n.conn, n.opening, n.waiting = c, make(chan struct{}, 1), make(map[string]chan tokenAnswer)
}

// put presents a token and waits for the hub's answer. A refusal wraps
// ErrUnauthorized or ErrRefused.
func (n *tokenNode) put(ctx context.Context, audience, token string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, n.conn.timeout, ErrTimeout)
	defer cancel()
	links, err := n.open(ctx)
	if err != nil {
		return fmt.Errorf("put token: %w", err)
	}
	answer := make(chan tokenAnswer, 1)
	n.mu.Lock()
	n.lastID++
	id := strconv.FormatUint(n.lastID, 10)
	n.waiting[id] = answer
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.waiting, id)
		n.mu.Unlock()
	}()
	to, replyTo := "$cbs", "cbs"
	err = links.sender.Send(patient{ctx}, &amqp.Message{
		Properties: &amqp.MessageProperties{MessageID: id, To: &to, ReplyTo: &replyTo},
		ApplicationProperties: map[string]any{
			"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": audience,
		},
		Value: token,
	}, nil)
	if err != nil {
		return fmt.Errorf("put token: %w", ended(ctx, err))
	}
	select {
	case a := <-answer:
		return a.err()
	case <-n.conn.conn.Done():
		return fmt.Errorf("put token: %w", n.conn.err())
	case <-ctx.Done():
		return fmt.Errorf("put token: %w", context.Cause(ctx))
	}
}

func (a tokenAnswer) err() error {
	switch {
	case a.lost:
		return errors.New("put token: the hub has closed the link for tokens")
	case a.status >= 200 && a.status < 300:
		return nil
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden, a.status == http.StatusNotFound:
		return fmt.Errorf("%w: token: status %d: %s", ErrUnauthorized, a.status, a.words)
	}
	return fmt.Errorf("%w: token: status %d: %s", ErrRefused, a.status, a.words)
}

// open returns the links, attaching them if there are none.
func (n *tokenNode) open(ctx context.Context) (*tokenLinks, error) {
	select {
	case n.opening <- struct{}{}:
		defer func() { <-n.opening }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	n.mu.Lock()
	links := n.links
	n.mu.Unlock()
	if links != nil {
		return links, nil
	}
	session, err := n.conn.session(ctx)
	if err != nil {
		return nil, ended(ctx, err)
	}
	links = &tokenLinks{session: session}
	settled := amqp.SenderSettleModeSettled
	if links.sender, err = session.NewSender(patient{ctx}, "$cbs", &amqp.SenderOptions{SettlementMode: &settled}); err == nil {
		links.receiver, err = session.NewReceiver(patient{ctx}, "$cbs", &amqp.ReceiverOptions{
			TargetAddress: "cbs", Credit: tokenCredit, RequestedSenderSettleMode: &settled,
		})
	}
	if err != nil {
		_ = session.Close(ctx)
		return nil, ended(ctx, err)
	}
	n.mu.Lock()
	n.links = links
	n.mu.Unlock()
	n.reader.Go(func() { n.read(links) })
	return links, nil
}

// read hands out answers until the links have ended.
func (n *tokenNode) read(links *tokenLinks) {
	for {
		m, err := links.receiver.Receive(context.Background(), nil)
		if err != nil {
			break // the connection is lost, or the hub does not like us
		}
		a := tokenAnswer{status: int(number(m.ApplicationProperties["status-code"]))}
		a.words, _ = m.ApplicationProperties["status-description"].(string)
		if m.Properties == nil {
			continue
		}
		id, _ := m.Properties.CorrelationID.(string)
		n.mu.Lock()
		answer := n.waiting[id]
		delete(n.waiting, id)
		n.mu.Unlock()
		if answer != nil {
			answer <- a // has room for the one answer
		}
	}
	n.mu.Lock()
	n.links = nil
	for id, answer := range n.waiting {
		delete(n.waiting, id)
		answer <- tokenAnswer{lost: true}
	}
	n.mu.Unlock()
	// The hub may have ended one link of the pair only.
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeGrace)
	defer cancel()
	_ = links.session.Close(ctx)
}

// wait waits for the reader. The connection must have ended.
func (n *tokenNode) wait() { n.reader.Wait() }

// ended prefers the cause of a context's end over what go-amqp makes of it.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && !over(err) {
		return context.Cause(ctx)
	}
	return amqpError(err)
}

// number reads an AMQP number of any integer type; 0 for others.
func number(v any) int64 {
	switch n := v.(type) {
	case int8:
		return int64(n)
	case int16:
		return int64(n)
	case int32:
		return int64(n)
	case int64:
		return n
	case uint8:
		return int64(n)
	case uint16:
		return int64(n)
	case uint32:
		return int64(n)
	case uint64:
		return int64(min(n, 1<<62))
	case time.Time:
		return n.UnixMilli()
	}
	return 0
}
