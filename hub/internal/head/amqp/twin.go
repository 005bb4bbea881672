package amqp

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// twinQueue is how many twin requests of one client may wait; one more is answered
// with 429.
const twinQueue = 16

// Annotations of twin messages.
const (
	keyTwinOperation = "operation"
	keyResource      = "resource"
	keyVersion       = "version"
	keyStatus        = "status"
)

// Resources that requests name.
const (
	resourceReported      = "/properties/reported"
	resourceNotifications = "/notifications/twin/properties/desired"
)

// twinRequest is one request; its correlation id goes back as it came.
type twinRequest struct {
	operation, resource string
	correlation         wire.Value
	version             int64
	body                []byte
}

// onTwinRequest queues a request. It is accepted at once, because the answer
// follows as a message.
func (c *client) onTwinRequest(d *amqp.Delivery) {
	m, err := d.Message()
	if err != nil {
		d.Reject(wire.Errorf(wire.CondDecodeError, "malformed message"))
		return
	}
	r := twinRequest{
		operation: strings.ToUpper(m.Annotations.Text(keyTwinOperation)),
		resource:  strings.TrimSuffix(m.Annotations.Text(keyResource), "/"),
	}
	if m.Properties != nil {
		r.correlation = m.Properties.CorrelationID
	}
	if v, ok := m.Annotations.Get(keyVersion); ok {
		r.version, _ = v.Int64()
	}
	r.body, _ = m.Body()
	d.Accept()
	if !c.twin.do(func() { c.doTwin(&r) }, twinQueue) {
		c.twinError(&r, head.ErrThrottled)
	}
}

func (c *client) doTwin(r *twinRequest) {
	s := c.enter()
	if s == nil {
		return
	}
	defer c.leave()
	var body []byte
	var version int64
	var err error
	status := http.StatusOK
	switch {
	case r.operation == "GET":
		body, err = c.readTwin(s)
	case r.operation == "PATCH" && strings.EqualFold(r.resource, resourceReported):
		status = http.StatusNoContent
		version, err = c.patchReported(s, r)
	case r.operation == "PUT" && strings.EqualFold(r.resource, resourceNotifications):
		c.followDesired(s)
	case r.operation == "DELETE" && strings.EqualFold(r.resource, resourceNotifications):
		s.Unsubscribe(head.DesiredChanges)
	default:
		err = fmt.Errorf("%w: unknown twin operation", head.ErrInvalid)
	}
	if err != nil {
		c.twinError(r, err)
		return
	}
	c.twinResponse(r, status, version, body)
}

// followDesired begins desired notifications, unless the link on which they would
// go has gone meanwhile.
func (c *client) followDesired(s head.Session) {
	s.Subscribe(head.DesiredChanges)
	if c.receiver(kindTwinReceive) == nil {
		s.Unsubscribe(head.DesiredChanges)
	}
}

// readTwin writes both sections, {} for one that the Backend left out.
func (c *client) readTwin(s head.Session) ([]byte, error) {
	t, err := s.Twin(c.ctx)
	if err != nil {
		return nil, err
	}
	if len(t.Desired) == 0 {
		t.Desired = json.RawMessage("{}")
	}
	if len(t.Reported) == 0 {
		t.Reported = json.RawMessage("{}")
	}
	return json.Marshal(iothub.TwinProperties{Desired: t.Desired, Reported: t.Reported})
}

func (c *client) patchReported(s head.Session, r *twinRequest) (int64, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(r.body, &object); err != nil || object == nil {
		return 0, fmt.Errorf("%w: the patch is no JSON object", head.ErrInvalid)
	}
	return s.PatchReported(c.ctx, r.body, r.version)
}

// twinResponse answers a request that has an id, if the client listens.
func (c *client) twinResponse(r *twinRequest, status int, version int64, body []byte) {
	l := c.receiver(kindTwinReceive)
	if l == nil || r.correlation.IsNull() {
		return
	}
	m := &wire.Message{Properties: &wire.Properties{CorrelationID: r.correlation}}
	m.Annotations = m.Annotations.WithSymbol(keyStatus, wire.Int(int32(status)))
	if version != 0 {
		m.Annotations = m.Annotations.WithSymbol(keyVersion, wire.Long(version))
	}
	m.Data = [][]byte{body}
	c.control(l, m)
}

// twinError answers with what err means to the client.
func (c *client) twinError(r *twinRequest, err error) {
	if c.ctx.Err() != nil {
		return
	}
	status, body := head.TwinFailure(err, c.conn.srv.opts.Flavor == Edge)
	c.conn.complain(c.log, "amqp twin request failed", "operation", head.Clip(r.operation), "status", status, "err", err)
	c.twinResponse(r, status, 0, body)
}
