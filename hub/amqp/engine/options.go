package engine

import (
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// Options are the limits and timers of a connection. A zero field stands for
// the default that its comment names.
type Options struct {
	ContainerID         string        // our container id; "amqp"
	MaxFrameSize        uint32        // largest frame that the peer may send; 65536
	ChannelMax          uint16        // highest channel, so one less than the sessions; 8191
	HandleMax           uint32        // highest handle, so one less than the links of a session; 1023
	MaxLinks            int           // links of a connection; 16384
	MaxLinkBytes        int           // bytes that what the peer says about its links may take; 32 MiB
	IncomingWindow      uint32        // frames that the peer may send ahead on a session; 5000
	OutgoingWindow      uint32        // announced to the peer, not enforced; 5000
	IdleTimeout         time.Duration // announced to the peer; 4 min; negative: none
	Heartbeat           time.Duration // how often a peer gets a frame that names no idle timeout; 0: never
	HandshakeTimeout    time.Duration // until the connection is open; 60 s
	CloseTimeout        time.Duration // wait for the peer's close; 5 s
	MaxMessageSize      uint64        // of a message from the peer, unless the link says otherwise; 1 MiB
	MaxPartial          int           // bytes of messages of which only a part has come; 16 MiB
	MaxBuffered         int           // bytes of deliveries not settled yet, beyond which input stops; 16 MiB
	MaxOutput           int           // bytes not yet written, beyond which input stops; 1 MiB
	MaxUnsettled        int           // deliveries of one sending link; 4096
	MaxQueue            int           // deliveries that wait for credit on one sending link; 1024
	Stranger            Limits        // besides the ones above, until Trust is called; none
	OfferedCapabilities []string      // of our open
	Properties          wire.Map      // of our open

	// Mechanisms are the SASL mechanisms on offer. Without any, clients that
	// begin with SASL are turned away.
	Mechanisms []string
	// RequireSASL turns away clients that begin without SASL.
	RequireSASL bool
	// Steal is asked when a peer attaches a link whose name and role are in use
	// on the same session. True, or no Steal at all, detaches the old link with
	// amqp:link:stolen; false refuses the new one with amqp:resource-locked.
	Steal func(old *Link) bool
	// FirstID is where ids of transfers and deliveries begin.
	FirstID uint32
}

// Limits are how much a peer may make a connection hold. Zero fields do not limit.
type Limits struct {
	Sessions int // at once
	Links    int // at once
	Bytes    int // for each of what MaxLinkBytes, MaxPartial and MaxBuffered count
}

// limits are those that hold now, with Stranger and without it.
type limits struct{ sessions, links, linkBytes, partial, buffered int }

func (o *Options) limits(stranger bool) limits {
	l := limits{int(o.ChannelMax) + 1, o.MaxLinks, o.MaxLinkBytes, o.MaxPartial, o.MaxBuffered}
	if !stranger {
		return l
	}
	lower := func(limit *int, to int) {
		if to > 0 {
			*limit = min(*limit, to)
		}
	}
	lower(&l.sessions, o.Stranger.Sessions)
	lower(&l.links, o.Stranger.Links)
	lower(&l.linkBytes, o.Stranger.Bytes)
	lower(&l.partial, o.Stranger.Bytes)
	lower(&l.buffered, o.Stranger.Bytes)
	return l
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func (o Options) withDefaults() Options {
	def(&o.ContainerID, "amqp")
	def(&o.MaxFrameSize, 65536)
	o.MaxFrameSize = max(o.MaxFrameSize, wire.MinMaxFrameSize)
	def(&o.ChannelMax, 8191)
	def(&o.HandleMax, 1023)
	def(&o.MaxLinks, 16384)
	def(&o.MaxLinkBytes, 32<<20)
	def(&o.IncomingWindow, 5000)
	def(&o.OutgoingWindow, 5000)
	def(&o.IdleTimeout, 4*time.Minute)
	def(&o.HandshakeTimeout, time.Minute)
	def(&o.CloseTimeout, 5*time.Second)
	def(&o.MaxMessageSize, 1<<20)
	def(&o.MaxPartial, 16<<20)
	def(&o.MaxBuffered, 16<<20)
	def(&o.MaxOutput, 1<<20)
	def(&o.MaxUnsettled, 4096)
	def(&o.MaxQueue, 1024)
	return o
}
