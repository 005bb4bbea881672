package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// twinRequest is a request on the link of the twin (iothub-amqp.md 7.3).
type twinRequest struct {
	operation string
	resource  string // empty for none
	body      []byte
}

// twinReply is the answer to a twin request.
type twinReply struct {
	status  int
	version int64
	body    []byte
}

// attachTwin attaches the pair of links for the twin.
func (l *amqpLink) attachTwin(ctx context.Context) error {
	sender, receiver, err := l.attachPair(ctx, l.address("/twin"), "twin:", maxPatches)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.twins = sender
	l.mu.Unlock()
	l.start(func() { l.receive(receiver, l.twinSays) })
	return nil
}

// twinSays takes an answer, or a change of desired properties: that has no
// correlation-id.
func (l *amqpLink) twinSays(m *amqp.Message) error {
	if m.Properties == nil || m.Properties.CorrelationID == nil {
		return l.twinChanged(m)
	}
	id, _ := m.Properties.CorrelationID.(string)
	l.mu.Lock()
	answer := l.requests[id]
	delete(l.requests, id)
	l.mu.Unlock()
	if answer != nil {
		status := int(number(m.Annotations["status"]))
		if m.Annotations == nil {
			status = 200 // as SDKs take it
		}
		answer <- twinReply{status, number(m.Annotations["version"]), body(m)} // has room for the one answer
	}
	return nil
}

// request sends a twin request and waits for its answer.
func (l *amqpLink) request(ctx context.Context, r twinRequest) (twinReply, error) {
	answer := make(chan twinReply, 1)
	l.mu.Lock()
	sender := l.twins
	if l.closed || l.reason != nil || sender == nil {
		l.mu.Unlock()
		return twinReply{}, errNotTaken
	}
	id := newGUID()
	l.requests[id] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.requests, id)
		l.wakeIdlersLocked()
		l.mu.Unlock()
	}()
	ctx, cancel := l.context(ctx)
	defer cancel()
	m := &amqp.Message{
		Properties:  &amqp.MessageProperties{CorrelationID: id},
		Annotations: amqp.Annotations{"operation": r.operation},
		Data:        [][]byte{r.body},
	}
	if r.body == nil {
		m.Data[0] = []byte(" ") // some hubs want a body
	}
	if r.resource != "" {
		m.Annotations["resource"] = r.resource
	}
	if err := sender.Send(patient{ctx}, m, nil); err != nil {
		return twinReply{}, l.lost(ctx, err)
	}
	select {
	case a := <-answer:
		if a.status < 200 || a.status >= 300 {
			return twinReply{}, statusError(a.status, a.body)
		}
		return a, nil
	case <-ctx.Done():
		return twinReply{}, l.lost(ctx, context.Cause(ctx))
	}
}

// lost is the error of a request that the hub has perhaps not got.
func (l *amqpLink) lost(ctx context.Context, err error) error {
	if reason := l.err(); reason != nil {
		return reason
	}
	if over(err) {
		err = fmt.Errorf("%w: %w", ErrConnectionLost, amqpError(err))
		l.fail(err)
		return err
	}
	return ended(ctx, err)
}

func (l *amqpLink) twin(ctx context.Context) (iothub.TwinProperties, error) {
	r, err := l.request(ctx, twinRequest{operation: "GET"})
	if err != nil {
		return iothub.TwinProperties{}, err
	}
	return parseTwin(r.body)
}

func (l *amqpLink) patchReported(ctx context.Context, patch json.RawMessage) (int64, error) {
	r, err := l.request(ctx, twinRequest{operation: "PATCH", resource: "/properties/reported", body: patch})
	return r.version, err
}
