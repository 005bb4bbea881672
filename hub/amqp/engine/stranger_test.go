package engine_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// What a client may make us hold before it is known is less than afterwards.
func TestStrangersHaveLess(t *testing.T) {
	strangers := engine.Options{Stranger: engine.Limits{Sessions: 3, Links: 4, Bytes: 1000}}
	known := func(p *peer) { p.c.Trust() }
	tests := map[string]func(p *peer){
		"sessions": func(p *peer) {
			for i := range uint16(3) { // open has begun one
				p.send(i+1, &wire.Begin{}, "")
			}
		},
		"links": func(p *peer) {
			for i := range uint32(4 + 64 + 1) { // 64 refused ones may wait for the client's detach
				if p.c.Err() == nil {
					p.send(0, &wire.Attach{Name: fmt.Sprint(i), Handle: i, Role: wire.RoleReceiver}, "")
				}
			}
		},
		"bytes of a part of a message": func(p *peer) {
			p.receiverLink(0, wire.Attach{}, 10)
			for range 3 {
				if p.c.Err() == nil {
					p.send(0, &wire.Transfer{Handle: 0, DeliveryID: wire.Some(uint32(0)), DeliveryTag: []byte("x"), More: true}, strings.Repeat("x", 400))
				}
			}
		},
	}
	for name, act := range tests {
		t.Run(name, func(t *testing.T) {
			p := open(t, strangers)
			act(p)
			p.closed(wire.CondResourceLimitExceeded)
			p = open(t, strangers)
			known(p)
			act(p)
			if err := p.c.Err(); err != nil {
				t.Error("known:", err)
			}
		})
	}
	t.Run("bytes of what the client says about links", func(t *testing.T) {
		p := open(t, strangers)
		attach := func(handle uint32) {
			p.send(0, &wire.Attach{Name: fmt.Sprint(handle), Handle: handle, Role: wire.RoleReceiver,
				Properties: wire.Map{}.WithSymbol("k", wire.String(strings.Repeat("x", 1000)))}, "")
		}
		attach(0)
		p.detached(wire.CondResourceLimitExceeded)
		known(p)
		attach(1)
		p.event(engine.EventAttach)
	})
	t.Run("bytes of messages nobody has settled", func(t *testing.T) {
		p := open(t, strangers)
		p.receiverLink(0, wire.Attach{}, 10)
		for i := range uint32(3) {
			p.transfer(0, i, strings.Repeat("x", 400))
		}
		if p.c.WantsInput() {
			t.Error("more is read")
		}
		known(p)
		if !p.c.WantsInput() {
			t.Error("known: no more is read")
		}
	})
}

// A session that is not used costs little: a client may begin 8192.
func TestIdleSessionsAreSmall(t *testing.T) {
	p := newPeer(t, engine.Options{})
	p.raw(header)
	p.send(0, &wire.Open{ChannelMax: 65535}, "")
	p.event(engine.EventOpen)
	p.check(p.c.AcceptOpen())
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const n = 8192
	for i := range n {
		p.send(uint16(i), &wire.Begin{}, "")
		p.event(engine.EventBegin)
		p.collect()
		p.in = p.in[:0]
	}
	if each := (heap() - before) / n; each > 400 {
		t.Errorf("%d bytes a session", each)
	}
	runtime.KeepAlive(p)
}

func TestHowFarADeliveryHasComeChangesNothing(t *testing.T) {
	p := open(t, engine.Options{})
	l := p.senderLink(0, wire.Attach{}, 10)
	for range 3 {
		p.check(l.Send(&engine.Outgoing{Payload: []byte("x")}))
		p.next()
	}
	p.send(0, &wire.Disposition{Role: wire.RoleReceiver, Last: wire.Some(uint32(2)), State: wire.State{Code: wire.StateReceived}}, "")
	p.noEvent()
	p.quiet()
	p.send(0, &wire.Disposition{Role: wire.RoleReceiver, Last: wire.Some(uint32(2)), Settled: true, State: wire.Accepted()}, "")
	for range 3 {
		p.event(engine.EventSettled)
	}
}
