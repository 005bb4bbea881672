package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// subscriptions lists filters and QoS of each feature, as the SDKs ask for them.
// What is not kept for absent clients needs no acknowledgement.
var subscriptions = [...]struct {
	feature features
	filter  topic.FilterKind
	qos     byte
}{
	{featInputs, topic.FilterInputs, 1},
	{featC2D, topic.FilterC2D, 1},
	{featDesired, topic.FilterDesiredChanges, 0},
	{featMethods, topic.FilterMethods, 0},
	{featTwin, topic.FilterTwinResponses, 0},
}

// subackRefused is the return code of a filter that is not granted.
const subackRefused = 0x80

func (l *mqttLink) enable(ctx context.Context, f features) error {
	select {
	case l.enabling <- struct{}{}:
		defer func() { <-l.enabling }()
	case <-l.stop:
		return errNotTaken
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.mu.Lock()
	missing := f &^ l.enabled
	l.mu.Unlock()
	if missing == 0 {
		return nil
	}
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	var asked []features
	for _, s := range subscriptions {
		if missing&s.feature != 0 {
			p.Topics = append(p.Topics, topic.Filter(s.filter, l.identity))
			p.Qoss = append(p.Qoss, s.qos)
			asked = append(asked, s.feature)
		}
	}
	codes, err := l.subscribe(ctx, p)
	if err != nil {
		return err
	}
	if len(codes) != len(asked) {
		err := fmt.Errorf("%w: SUBACK of %d filters for %d", errProtocol, len(codes), len(asked))
		l.fail(err)
		return err
	}
	var refused []string
	l.mu.Lock()
	for i, code := range codes {
		if code == subackRefused {
			refused = append(refused, p.Topics[i])
		} else {
			l.enabled |= asked[i]
		}
	}
	l.mu.Unlock()
	if refused != nil {
		return fmt.Errorf("%w: subscription to %s", ErrRefused, strings.Join(refused, ", "))
	}
	return nil
}

// subscribe sends SUBSCRIBE and waits for the return codes.
func (l *mqttLink) subscribe(ctx context.Context, p *packets.SubscribePacket) ([]byte, error) {
	answer := make(chan []byte, 1)
	l.mu.Lock()
	p.MessageID = l.newIDLocked()
	l.subs[p.MessageID] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.subs, p.MessageID)
		l.mu.Unlock()
	}()
	if err := l.post(ctx, p); err != nil {
		return nil, err
	}
	return await(ctx, l, answer)
}

// await waits for an answer, for the link's request timeout at most.
func await[T any](ctx context.Context, l *mqttLink, answer <-chan T) (T, error) {
	var none T
	timeout := time.NewTimer(l.timeout)
	defer timeout.Stop()
	select {
	case a := <-answer:
		return a, nil
	case <-l.stop:
		return none, l.err()
	case <-timeout.C:
		return none, ErrTimeout
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// topicReply is the answer to a twin request.
type topicReply struct {
	status  int
	version int64
	body    []byte
}

// request sends a twin request and waits for its answer.
func (l *mqttLink) request(ctx context.Context, kind topic.Kind, body []byte) (topicReply, error) {
	answer := make(chan topicReply, 1)
	l.mu.Lock()
	if l.closed || l.reason != nil {
		l.mu.Unlock()
		return topicReply{}, errNotTaken
	}
	l.lastRID++
	rid := strconv.FormatUint(l.lastRID, 10)
	l.requests[rid] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.requests, rid)
		l.wakeIdlersLocked()
		l.mu.Unlock()
	}()
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName = topic.Topic{Kind: kind, RequestID: rid}.String()
	p.Payload = body
	if err := l.post(ctx, p); err != nil {
		return topicReply{}, err
	}
	r, err := await(ctx, l, answer)
	if err != nil {
		return topicReply{}, err
	}
	if r.status < 200 || r.status >= 300 {
		return topicReply{}, statusError(r.status, r.body)
	}
	return r, nil
}

// statusError keeps the words of the hub, if there are any that fit in a line.
func statusError(status int, answer []byte) error {
	e := &StatusError{Status: status}
	var body struct {
		Message string `json:"message"`
	}
	if err := json.Unmarshal(answer, &body); err == nil {
		const limit = 256
		if len(body.Message) > limit {
			body.Message = strings.ToValidUTF8(body.Message[:limit], "") + "..."
		}
		e.Message = body.Message
	}
	return e
}

func (l *mqttLink) twin(ctx context.Context) (iothub.TwinProperties, error) {
	r, err := l.request(ctx, topic.TwinGet, nil)
	if err != nil {
		return iothub.TwinProperties{}, err
	}
	return parseTwin(r.body)
}

// parseTwin reads the properties of a twin. Missing sections are empty.
func parseTwin(answer []byte) (iothub.TwinProperties, error) {
	var twin iothub.TwinProperties
	if err := json.Unmarshal(answer, &twin); err != nil {
		return iothub.TwinProperties{}, fmt.Errorf("%w: twin is no JSON object", errProtocol)
	}
	for _, section := range [...]*json.RawMessage{&twin.Desired, &twin.Reported} {
		if len(*section) == 0 || string(*section) == "null" {
			*section = json.RawMessage("{}")
		}
	}
	return twin, nil
}

func (l *mqttLink) patchReported(ctx context.Context, patch json.RawMessage) (int64, error) {
	r, err := l.request(ctx, topic.TwinPatchReported, patch)
	return r.version, err
}

func (l *mqttLink) respond(ctx context.Context, id string, r iothub.MethodResponse) error {
	err := l.post(ctx, response(id, r))
	if errors.Is(err, errNotTaken) {
		return ErrConnectionLost
	}
	return err
}

func response(id string, r iothub.MethodResponse) packets.ControlPacket {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName = topic.Topic{Kind: topic.MethodResponse, Status: r.Status, RequestID: id}.String()
	p.Payload = r.Payload
	return p
}
