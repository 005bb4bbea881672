//go:build conformance

package amqp_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// conformer is the server that the clients in testdata expect.
type conformer struct {
	node
	t        *testing.T
	messages *atomic.Int64
	outcomes *[8]atomic.Int64
}

func (p *conformer) OnSASL(s *amqp.SASL) {
	_, user, pass, _ := amqp.Plain(s.Response)
	if s.Mechanism() == "PLAIN" && (user != "me" || pass != "secret") {
		s.Refuse(wire.SASLAuth)
		return
	}
	s.Accept()
}

func (p *conformer) OnAttach(a *amqp.Attach) {
	switch a.Address() {
	case "target":
		a.AcceptReceiver(p, amqp.ReceiverOptions{Window: 10})
	case "source":
		a.AcceptSender(&sourceNode{p: p}, amqp.SenderOptions{})
	case "drain":
		a.AcceptSender(&drainNode{}, amqp.SenderOptions{})
	default:
		a.Refuse(wire.Errorf(wire.CondNotFound, "no %q", a.Address()))
	}
}

func (p *conformer) OnClose(err error) {
	if err != nil {
		p.t.Error("closed:", err)
	}
}

func (p *conformer) OnDelivery(d *amqp.Delivery) {
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

type sourceNode struct {
	p *conformer
	n int
}

func (s *sourceNode) OnDetach(*wire.Error) {}
func (s *sourceNode) OnCredit(out *amqp.Sender, credit uint32, _ bool) {
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

type drainNode struct{}

func (*drainNode) OnDetach(*wire.Error) {}
func (*drainNode) OnCredit(out *amqp.Sender, credit uint32, drain bool) {
	n := min(credit, 5)
	if !drain {
		n = min(credit, 1)
	}
	for range n {
		_ = out.Send(wire.NewMessage([]byte("one")), amqp.SendOptions{Settled: true}, nil)
	}
}

// conform runs a foreign client, which is given the address of a server and
// sends so many messages to it.
func conform(t *testing.T, want int64, client func(address string) *exec.Cmd) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var messages atomic.Int64
	var outcomes [8]atomic.Int64
	server := amqp.Server{
		NewConn: func(*amqp.Conn) amqp.ConnHandler {
			return &conformer{t: t, messages: &messages, outcomes: &outcomes}
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
	if out, err := client(ln.Addr().String()).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := messages.Load(); n != want {
		t.Errorf("%d messages, want %d", n, want)
	}
	for code, want := range map[wire.StateCode]int64{wire.StateAccepted: 150, wire.StateRejected: 150, wire.StateModified: 150, wire.StateReleased: 150} {
		if got := outcomes[code&7].Load(); got != want {
			t.Errorf("%v: %d", code, got)
		}
	}
}

// Needs Debian's packages python3 and python3-qpid-proton.
func TestQpidProton(t *testing.T) {
	conform(t, 3*(1000+1+1+2+100+100), func(address string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "/usr/bin/python3", "testdata/qpid_client.py", address)
	})
}

// Needs node, npm and a registry to install rhea from.
func TestRhea(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/rhea")); err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm: %v\n%s", err, out)
	}
	conform(t, 3*(1000+1+1+2+100), func(address string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), "node", "client.js", address)
		c.Dir = dir
		return c
	})
}
