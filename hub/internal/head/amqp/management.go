package amqp

import (
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/cbs"
	"github.com/breakwater-iot/breakwater/hub/amqp/rpc"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

// management is the node that describes the event hub (spec iothub-amqp 11.3).
const management = "$management"

// maxManaging is how many requests of a connection wait.
const maxManaging = 256

// What management can be asked about.
const (
	typeEventHub  = "com.microsoft:eventhub"
	typePartition = "com.microsoft:partition"
)

func managementPath(info *head.EventHubInfo) string {
	return strings.ToLower(info.Name) + "/" + management
}

func (c *conn) attachManagement(a *amqp.Attach, info *head.EventHubInfo) {
	c.mu.Lock()
	ok := c.mayRead(managementPath(info))
	c.mu.Unlock()
	if !ok {
		a.Refuse(wire.Errorf(wire.CondUnauthorizedAccess, "no token for this node"))
		return
	}
	c.management.Attach(a)
}

// onManagement answers a request. It runs on the goroutine of the connection.
func (c *conn) onManagement(r *rpc.Request) {
	info := c.srv.opts.Events.EventHub()
	c.mu.Lock()
	ok := c.mayRead(managementPath(&info))
	c.mu.Unlock()
	if !ok { // the token has run out since the link was attached
		r.Respond(managementError(cbs.Unauthorized, wire.CondUnauthorizedAccess, "no token for this node"))
		return
	}
	if !c.managing.do(func() { r.Respond(c.manage(r.Message, &info)) }, maxManaging) {
		r.Respond(managementError(cbs.Unavailable, condThrottled, "too many requests at once"))
	}
}

// manage makes the answer to a request; m is nil if that was malformed.
func (c *conn) manage(m *wire.Message, info *head.EventHubInfo) *wire.Message {
	if m == nil {
		return managementError(cbs.BadRequest, wire.CondDecodeError, "malformed message")
	}
	p := m.ApplicationProperties
	if !strings.EqualFold(p.Text("operation"), "READ") {
		return managementError(cbs.BadRequest, wire.CondNotImplemented, "the operation must be READ")
	}
	if name := p.Text("name"); name != "" && !strings.EqualFold(name, info.Name) {
		return managementError(cbs.NotFound, wire.CondNotFound, "no event hub has this name")
	}
	switch kind := p.Text("type"); {
	case strings.EqualFold(kind, typeEventHub):
		return managementAnswer(describeEventHub(info))
	case strings.EqualFold(kind, typePartition):
		n, ok := partitionOf(p)
		if !ok || n >= info.Partitions {
			return managementError(cbs.BadRequest, condArgumentRange, "no such partition")
		}
		part, err := c.srv.opts.Events.Partition(n)
		if err != nil {
			c.log.Error("amqp partition", "err", err)
			return managementError(cbs.Internal, wire.CondInternalError, "internal error")
		}
		return managementAnswer(describePartition(info, n, &part))
	}
	return managementError(cbs.BadRequest, condArgument, "the type is not known")
}

// partitionOf is the partition that a request names, as text or number.
func partitionOf(p wire.Map) (int, bool) {
	v, _ := p.Get("partition")
	if n, ok := integer(v); ok {
		return int(n), n >= 0 && n < 1<<31
	}
	s, _ := v.Text()
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}

func describeEventHub(info *head.EventHubInfo) wire.Map {
	ids := make([]wire.Value, info.Partitions)
	for i := range ids {
		ids[i] = wire.String(strconv.Itoa(i))
	}
	return wire.Map{}.
		With("name", wire.String(info.Name)).
		With("type", wire.String(typeEventHub)).
		With("created_at", wire.TimestampValue(wire.TimestampOf(info.Created))).
		With("partition_count", wire.Int(int32(info.Partitions))).
		With("partition_ids", wire.Array(ids...))
}

func describePartition(info *head.EventHubInfo, n int, p *head.PartitionInfo) wire.Map {
	return wire.Map{}.
		With("name", wire.String(info.Name)).
		With("type", wire.String(typePartition)).
		With("partition", wire.String(strconv.Itoa(n))).
		With("begin_sequence_number", wire.Long(p.Begin)).
		With("last_enqueued_sequence_number", wire.Long(p.Last)).
		With("last_enqueued_offset", wire.String(strconv.FormatInt(p.LastOffset, 10))).
		With("last_enqueued_time_utc", wire.TimestampValue(wire.TimestampOf(p.LastEnqueued))).
		With("is_partition_empty", wire.Bool(p.Empty))
}

func managementAnswer(body wire.Map) *wire.Message {
	return &wire.Message{
		ApplicationProperties: wire.Map{}.With("status-code", wire.Int(cbs.OK)).With("status-description", wire.String("OK")),
		Value:                 wire.Some(body.Value()),
	}
}

func managementError(code int32, condition, description string) *wire.Message {
	return &wire.Message{
		ApplicationProperties: wire.Map{}.
			With("status-code", wire.Int(code)).
			With("status-description", wire.String(description)).
			With("error-condition", wire.Symbol(condition)),
		Value: wire.Some(wire.Value{}),
	}
}
