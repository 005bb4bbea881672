package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// attachMessages attaches a link on which messages come. They are settled by this
// side alone.
func (l *amqpLink) attachMessages(ctx context.Context, address string, inputs bool) error {
	first := amqp.ReceiverSettleModeFirst
	r, err := l.session.NewReceiver(patient{ctx}, address, &amqp.ReceiverOptions{
		SettlementMode: &first, Credit: l.o.receiverCredit(), Properties: l.properties(""),
	})
	if err != nil {
		return fmt.Errorf("attach %s: %w", address, ended(ctx, err))
	}
	l.start(func() {
		l.receive(r, func(m *amqp.Message) error { return l.deliver(r, m, inputs) })
	})
	return nil
}

// receive hands on what comes on a link until that ends, and the session with it.
func (l *amqpLink) receive(r *amqp.Receiver, take func(*amqp.Message) error) {
	for {
		m, err := r.Receive(l.ctx, nil)
		if err == nil {
			err = take(m)
		}
		if err != nil {
			l.fail(amqpError(err))
			return
		}
	}
}

// deliver hands on a message. There is room for all that the hub has credit for,
// unless the handlers still have some of an earlier link, which is waited for.
func (l *amqpLink) deliver(r *amqp.Receiver, received *amqp.Message, inputs bool) error {
	m, input := decodeMessage(received)
	if inputs && input == "" {
		l.o.Logger.Warn("input message without the name of an input")
		return r.AcceptMessage(patient{l.ctx}, received)
	}
	if !inputs {
		input = ""
	}
	l.in.messageWait(l.ctx, delivery{
		input:   input,
		m:       m,
		done:    func(o outcome) { l.finish(r, received, o) },
		current: func() bool { return l.err() == nil },
	})
	return nil
}

// finish tells the hub what became of a message.
func (l *amqpLink) finish(r *amqp.Receiver, m *amqp.Message, o outcome) {
	if l.err() != nil {
		return // the hub knows that nothing has become of it
	}
	var err error
	switch o {
	case handled:
		err = r.AcceptMessage(patient{l.ctx}, m)
	case returned:
		err = r.ReleaseMessage(patient{l.ctx}, m)
	case refused:
		err = r.RejectMessage(patient{l.ctx}, m, nil)
	case kept:
		l.keep()
	}
	if err != nil {
		l.o.Logger.Debug("message is not settled", "err", err)
	}
}

// keep counts messages that are left unsettled. Each costs credit for as long as
// the link lasts, so before there is none left a new one is made.
func (l *amqpLink) keep() {
	l.mu.Lock()
	l.unkept++
	many := l.unkept >= int(l.o.receiverCredit()+1)/2
	l.mu.Unlock()
	if many {
		l.fail(ErrOverflow)
	}
}

// attachMethods attaches the pair of links for direct methods.
func (l *amqpLink) attachMethods(ctx context.Context) error {
	sender, receiver, err := l.attachPair(ctx, l.address("/methods/devicebound"), "methods:", 2*maxMethods)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.methods = sender
	l.mu.Unlock()
	l.start(func() { l.receive(receiver, l.methodCalled) })
	return nil
}

// attachPair attaches the links of a feature with requests and answers, on which
// everything is sent settled.
func (l *amqpLink) attachPair(ctx context.Context, address, prefix string, credit int32) (*amqp.Sender, *amqp.Receiver, error) {
	properties := l.properties(prefix + newGUID())
	settled := amqp.SenderSettleModeSettled
	sender, err := l.session.NewSender(patient{ctx}, address, &amqp.SenderOptions{SettlementMode: &settled, Properties: properties})
	if err != nil {
		return nil, nil, fmt.Errorf("attach %s: %w", address, ended(ctx, err))
	}
	receiver, err := l.session.NewReceiver(patient{ctx}, address, &amqp.ReceiverOptions{
		RequestedSenderSettleMode: &settled, Credit: credit, Properties: properties,
	})
	if err != nil {
		over, cancel := context.WithCancel(ctx)
		cancel()
		_ = sender.Close(over)
		return nil, nil, fmt.Errorf("attach %s: %w", address, ended(ctx, err))
	}
	return sender, receiver, nil
}

// methodCalled hands on a call, or answers that there is no room for it.
func (l *amqpLink) methodCalled(m *amqp.Message) error {
	name, _ := m.ApplicationProperties["IoThub-methodname"].(string)
	id := ""
	if m.Properties != nil {
		id = methodID(m.Properties.CorrelationID)
	}
	if id == "" || name == "" {
		l.o.Logger.Warn("method call without a name or an id")
		return nil
	}
	if l.in.method(l, id, iothub.MethodRequest{Name: name, Payload: body(m)}) {
		return nil
	}
	// The reader of calls may wait for the hub here: no more calls are taken anyway.
	err := l.respond(l.ctx, id, iothub.MethodResponse{Status: statusBusy})
	if err != nil && l.err() == nil {
		return err
	}
	return nil
}

func (l *amqpLink) respond(ctx context.Context, id string, r iothub.MethodResponse) error {
	l.mu.Lock()
	sender := l.methods
	l.mu.Unlock()
	if sender == nil || l.err() != nil {
		return ErrConnectionLost
	}
	ctx, cancel := l.context(ctx)
	defer cancel()
	err := sender.Send(patient{ctx}, &amqp.Message{
		Properties:            &amqp.MessageProperties{CorrelationID: correlation(id)},
		ApplicationProperties: map[string]any{"IoThub-status": int32(r.Status)},
		Data:                  [][]byte{r.Payload},
	}, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConnectionLost, ended(ctx, err))
	}
	return nil
}

// twinChanged hands on a patch of desired properties.
func (l *amqpLink) twinChanged(m *amqp.Message) error {
	patch := json.RawMessage(body(m))
	version := number(m.Annotations["version"])
	if version == 0 {
		version, _ = iothub.Version(patch)
	}
	if !l.in.desired(patch, version) {
		return ErrOverflow
	}
	return nil
}
