package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// amqpTransport connects over AMQP 1.0 (iothub-amqp.md), on a connection of its own
// or on a session of a shared one.
//
// go-amqp does the protocol. What it cannot do, and what is done about it:
//
//   - It does not tell that a sender or session has ended before the next message.
//     The link asks from time to time (amqpLink.probe).
//   - It takes the deadline of a request for that of the network (patient).
//   - It closes the connection when its sessions are used up; Shared opens another
//     one before.
//   - It reuses a session's handles before the hub has heard of the end of a link.
//     So a link that ends ends its session, and what follows has a new one.
type amqpTransport struct {
	o      *Options
	shared *Shared // nil: connections are this client's alone
}

var _ transport = (*amqpTransport)(nil)

func (t *amqpTransport) connect(ctx context.Context, cred credential, in receiver) (link, error) {
	conn, release, err := t.connection(ctx)
	if err != nil {
		return nil, err
	}
	l := newAMQPLink(t.o, conn, release, in)
	if err = l.begin(ctx, cred); err != nil {
		l.abandon(ctx)
		return nil, err
	}
	return l, nil
}

// connection returns a connection and what to do when it is no longer needed.
func (t *amqpTransport) connection(ctx context.Context) (*amqpConn, func(context.Context), error) {
	if t.shared != nil {
		conn, err := t.shared.hold(ctx)
		if err != nil {
			return nil, nil, err
		}
		return conn, func(ctx context.Context) { t.shared.release(ctx, conn) }, nil
	}
	conn, err := dialAMQP(ctx, t.o.endpoint(), t.o.KeepAlive, t.o.RequestTimeout)
	if err != nil {
		return nil, nil, err
	}
	return conn, conn.close, nil
}

// begin presents the token, begins the session and attaches the link of telemetry:
// hubs that do not look at tokens at once do so then.
func (l *amqpLink) begin(ctx context.Context, cred credential) error {
	if err := l.renew(ctx, cred); err != nil {
		return err
	}
	session, err := l.conn.session(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	l.session = session
	properties := l.properties("")
	if l.o.ModelID != "" {
		properties["com.microsoft:model-id"] = l.o.ModelID
	}
	l.sender, err = session.NewSender(patient{ctx}, l.address("/messages/events"), &amqp.SenderOptions{Properties: properties})
	if err != nil {
		return fmt.Errorf("attach link of messages: %w", ended(ctx, err))
	}
	l.start(l.write)
	l.start(l.settle)
	return nil
}

// renew puts a token. Links are not touched.
func (l *amqpLink) renew(ctx context.Context, cred credential) error {
	if cred.token == "" {
		return nil
	}
	ctx, cancel := l.context(ctx)
	defer cancel()
	token, err := sas.Parse(cred.token)
	if err != nil {
		return fmt.Errorf("%w: token: %w", ErrOptions, err)
	}
	return l.conn.tokens.put(ctx, token.Resource, cred.token)
}

// address returns that of a node of the identity (iothub-amqp.md 5.1).
func (l *amqpLink) address(node string) string {
	id := l.o.Identity
	address := "/devices/" + escapeID(id.Device)
	if id.IsModule() {
		address += "/modules/" + escapeID(id.Module)
	}
	return address + node
}

// properties returns the properties of a link (iothub-amqp.md 5.3). pair names the
// two links of one feature.
func (l *amqpLink) properties(pair string) map[string]any {
	p := map[string]any{"com.microsoft:api-version": apiVersion}
	if l.o.ProductInfo != "" {
		p["com.microsoft:client-version"] = l.o.ProductInfo
	}
	if pair != "" {
		p["com.microsoft:channel-correlation-id"] = pair
	}
	if l.o.AuthChain != "" {
		p["com.microsoft:auth-chain"] = l.o.AuthChain
	}
	return p
}

// receiverCredit is how many messages of one kind may be with the client. Two
// kinds of messages share the queue.
func (o *Options) receiverCredit() int32 { return int32(min(max(o.Queue/2, 1), 500)) }

// enable attaches the links of features one after the other: handles of go-amqp
// are not made for more.
func (l *amqpLink) enable(ctx context.Context, f features) error {
	select {
	case l.enabling <- struct{}{}:
		defer func() { <-l.enabling }()
	case <-l.stop:
		return errNotTaken
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	attachCtx, cancel := l.context(ctx)
	defer cancel()
	if f&featDesired != 0 {
		f |= featTwin
	}
	var refused error
	for _, kind := range [...]features{featInputs, featC2D, featMethods, featTwin, featDesired} {
		l.mu.Lock()
		has := l.enabled
		l.mu.Unlock()
		if f&kind&^has == 0 || kind == featDesired && has&featTwin == 0 {
			continue
		}
		err := l.attach(attachCtx, kind)
		switch {
		case err == nil:
			l.mu.Lock()
			l.enabled |= kind
			l.mu.Unlock()
		case l.err() != nil:
			return l.err()
		case refusal(err):
			refused = fmt.Errorf("%w: %w", ErrRefused, err)
		default:
			return err
		}
	}
	return refused
}

// refusal tells whether the hub refuses a feature, and not the identity.
func refusal(err error) bool {
	var status *StatusError
	return errors.As(err, &status) ||
		condition(err) != "" && condition(err) != amqp.ErrCondUnauthorizedAccess && !over(err)
}

// attach attaches what one feature needs.
func (l *amqpLink) attach(ctx context.Context, f features) error {
	switch f {
	case featInputs:
		return l.attachMessages(ctx, l.address("/messages/events"), true)
	case featC2D:
		return l.attachMessages(ctx, l.address("/messages/devicebound"), false)
	case featMethods:
		return l.attachMethods(ctx)
	case featTwin:
		return l.attachTwin(ctx)
	default: // featDesired
		_, err := l.request(ctx, twinRequest{operation: "PUT", resource: "/notifications/twin/properties/desired"})
		return err
	}
}

var _ link = (*amqpLink)(nil)

// context returns ctx that also ends with the link, and with its time for a
// request.
func (l *amqpLink) context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancelTimeout := context.WithTimeoutCause(ctx, l.o.RequestTimeout, ErrTimeout)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.ctx, func() { cancel(l.err()) })
	return ctx, func() {
		stop()
		cancel(nil)
		cancelTimeout()
	}
}

// escapeID writes an id as a segment of an address.
func escapeID(id string) string {
	const hex = "0123456789ABCDEF"
	var b []byte
	for i := range len(id) {
		c := id[i]
		// Ids hold few characters, of which these mean something in an address.
		if c == '%' || c == '#' || c == '?' || c == '/' {
			b = append(b, '%', hex[c>>4], hex[c&15])
			continue
		}
		b = append(b, c)
	}
	return string(b)
}
