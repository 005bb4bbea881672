//go:build conformance

package amqp_test

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// proton is the server that testdata/qpid_client.py expects.
type proton struct {
	node
	t        *testing.T
	messages *atomic.Int64
	outcomes *[8]atomic.Int64
}

func (p *proton) OnSASL(s *amqp.SASL) {
	_, user, pass, _ := amqp.Plain(s.Response)
	if s.Mechanism() == "PLAIN" && (user != "me" || pass != "secret") {
		s.Refuse(wire.SASLAuth)
		return
	}
	s.Accept()
}

func (p *proton) OnAttach(a *amqp.Attach) {
	switch a.Address() {
	case "target":
		a.AcceptReceiver(p, amqp.ReceiverOptions{Window: 10})
	case "source":
		a.AcceptSender(&protonSource{p: p}, amqp.SenderOptions{})
	case "drain":
		a.AcceptSender(&protonDrain{}, amqp.SenderOptions{})
	default:
		a.Refuse(wire.Errorf(wire.CondNotFound, "no %q", a.Address()))
	}
}

func (p *proton) OnClose(err error) {
	if err != nil {
		p.t.Error("closed:", err)
	}
}

func (p *proton) OnDelivery(d *amqp.Delivery) {
	m, err := d.Message()
	if err != nil {
		p.t.Error(err)
	}
	p.messages.Add(1)
	switch {
	case m.Properties != nil && m.Properties.Subject == "reject":
		d.Reject(wire.Errorf(wire.CondInvalidField, "no"))
	case m.Properties != nil && m.Properties.Subject == "release":
		d.Release()
	default:
		d.Accept()
	}
}

type protonSource struct {
	p *proton
	n int
}

func (s *protonSource) OnDetach(*wire.Error) {}
func (s *protonSource) OnCredit(out *amqp.Sender, credit uint32, _ bool) {
	for range credit {
		m := wire.NewMessage(fmt.Append(nil, "m", s.n))
		m.Annotations = m.Annotations.WithSymbol("x-opt-sequence-number", wire.Ulong(uint64(s.n)))
		s.n++
		err := out.Send(m, amqp.SendOptions{Tag: fmt.Appendf(nil, "%016d", s.n)}, func(o amqp.Outcome) {
			if !o.Lost {
				s.p.outcomes[o.State.Code&7].Add(1)
			}
		})
		if err != nil {
			s.p.t.Error(err)
		}
	}
}

type protonDrain struct{}

func (*protonDrain) OnDetach(*wire.Error) {}
func (*protonDrain) OnCredit(out *amqp.Sender, credit uint32, drain bool) {
	n := min(credit, 5)
	if !drain {
		n = min(credit, 1)
	}
	for range n {
		_ = out.Send(wire.NewMessage([]byte("one")), amqp.SendOptions{Settled: true}, nil)
	}
}

// Needs Debian's packages python3 and python3-qpid-proton.
func TestQpidProton(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var messages atomic.Int64
	var outcomes [8]atomic.Int64
	server := amqp.Server{
		NewConn: func(*amqp.Conn) amqp.ConnHandler {
			return &proton{t: t, messages: &messages, outcomes: &outcomes}
		},
		Options: engineOptions(engine.Options{Mechanisms: []string{"MSSBCBS", "PLAIN", "ANONYMOUS"}, IdleTimeout: 5 * time.Second}),
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = server.Serve(context.Background(), nc) })
		}
	})
	defer wg.Wait()
	defer ln.Close()
	out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", "testdata/qpid_client.py", ln.Addr().String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := messages.Load(); n != 3*(1000+1+1+2+100+100) {
		t.Errorf("%d messages", n)
	}
	for code, want := range map[wire.StateCode]int64{wire.StateAccepted: 150, wire.StateRejected: 150, wire.StateModified: 150, wire.StateReleased: 150} {
		if got := outcomes[code&7].Load(); got != want {
			t.Errorf("%v: %d", code, got)
		}
	}
}
