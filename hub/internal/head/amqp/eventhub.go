package amqp

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

const condArgumentRange = "com.microsoft:argument-out-of-range"

// errManyGrants refuses one more token for events.
var errManyGrants = errors.New("too many tokens")

// eventGrant is the right to read events at a path and below, while its token lasts.
type eventGrant struct{ timer *time.Timer }

// grantEvents takes a right or renews it. c.mu is held.
func (c *conn) grantEvents(path string, expires time.Time) error {
	path = strings.ToLower(path)
	if c.grants[path] == nil && len(c.grants) >= c.srv.opts.MaxIdentities {
		return errManyGrants
	}
	c.dropGrant(path)
	g := &eventGrant{}
	if !expires.IsZero() {
		g.timer = time.AfterFunc(left(expires), func() { c.grantExpired(path, g) })
	}
	c.grants[path] = g
	return nil
}

// dropGrant forgets a right, if it is there. c.mu is held.
func (c *conn) dropGrant(path string) {
	if g := c.grants[path]; g != nil && g.timer != nil {
		g.timer.Stop()
	}
	delete(c.grants, path)
}

func (c *conn) grantExpired(path string, g *eventGrant) {
	c.mu.Lock()
	current := c.grants[path] == g
	if current {
		delete(c.grants, path)
	}
	c.mu.Unlock()
	if current {
		c.log.Info("amqp reader ended by expiry of its token", "path", path)
		c.detachUngranted()
	}
}

// mayRead tells whether somebody on the connection may read what lies at a path, which
// is in lower case. c.mu is held.
func (c *conn) mayRead(path string) bool {
	if c.service != nil {
		return true
	}
	for {
		if c.grants[path] != nil {
			return true
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return false
		}
		path = path[:i]
	}
}

// detachUngranted ends the readers that have lost their right.
func (c *conn) detachUngranted() {
	c.mu.Lock()
	var lost []*eventReader
	for r := range c.readers {
		if !c.mayRead(r.path) {
			lost = append(lost, r)
		}
	}
	c.mu.Unlock()
	for _, r := range lost {
		r.detach(wireError(head.ErrExpired))
	}
}

// attachEvents answers a link of the event endpoint, or one that has to find it.
func (c *conn) attachEvents(a *amqp.Attach, addr address) {
	info := c.srv.opts.Events.EventHub()
	c.mu.Lock()
	service := c.service != nil
	c.mu.Unlock()
	switch {
	case addr.node == nodeRedirect && a.ClientSends():
		a.Refuse(wire.Errorf(wire.CondNotAllowed, "the node is not for this direction"))
	case addr.node == nodeRedirect && !service:
		a.Refuse(wire.Errorf(wire.CondUnauthorizedAccess, "no token of a service"))
	case addr.node == nodeRedirect:
		a.Refuse(redirect(&info, addr.rest))
	case addr.entity != "" && !strings.EqualFold(addr.entity, info.Name):
		a.Refuse(wire.Errorf(wire.CondNotFound, "no event hub has this name"))
	case addr.node == nodeManagement:
		c.attachManagement(a, &info)
	default:
		c.attachReader(a, addr, &info)
	}
}

// redirect says where the event endpoint is. Clients take the address apart literally:
// the port, and a slash at the end.
func redirect(info *head.EventHubInfo, rest string) *wire.Error {
	e := wire.Errorf(wire.CondLinkRedirect, "events are read elsewhere")
	e.Info = wire.Map{}.
		WithSymbol("hostname", wire.String(info.Host)).
		WithSymbol("network-host", wire.String(info.Host)).
		WithSymbol("port", wire.Int(int32(info.Port))).
		WithSymbol("address", wire.String(fmt.Sprintf("amqps://%s:%d/%s/%s", info.Host, info.Port, info.Name, rest)))
	return e
}

// attachReader begins to read a partition.
func (c *conn) attachReader(a *amqp.Attach, addr address, info *head.EventHubInfo) {
	r := newEventReader(c)
	partition, err := strconv.Atoi(addr.partition)
	group := slices.IndexFunc(info.Groups, func(g string) bool { return strings.EqualFold(g, addr.group) })
	var refusal *wire.Error
	switch {
	case a.ClientSends():
		refusal = wire.Errorf(wire.CondNotAllowed, "the node is not for this direction")
	case group < 0:
		refusal = wire.Errorf(wire.CondNotFound, "no such consumer group")
	case err != nil || partition < 0 || partition >= info.Partitions:
		refusal = wire.Errorf(condArgumentRange, "no such partition: there are %d", info.Partitions)
	default:
		r.key = groupPartition{strings.ToLower(info.Groups[group]), partition}
		r.path = strings.ToLower(info.Name) + "/consumergroups/" + r.key.group + "/partitions/" + strconv.Itoa(partition)
		refusal = r.configure(a.Client())
	}
	if refusal == nil {
		c.mu.Lock()
		if c.mayRead(r.path) && !c.closed {
			c.readers[r] = struct{}{}
		} else {
			refusal = wire.Errorf(wire.CondUnauthorizedAccess, "no token for these events")
		}
		c.mu.Unlock()
	}
	if refusal != nil {
		r.cancel()
		c.complain(c.log, "amqp reader refused", "address", head.Clip(a.Address()), "err", refusal)
		a.Refuse(refusal)
		return
	}
	c.spawn(func() { r.run(a) })
}
