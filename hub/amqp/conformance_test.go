//go:build conformance

package amqp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/cbs"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// conformer is the server that the clients in testdata expect.
type conformer struct {
	node
	t        *testing.T
	cbs      *cbs.Node
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
	if cbs.Is(a.Address()) {
		p.cbs.Attach(a)
		return
	}
	switch a.Address()[strings.LastIndexByte(a.Address(), '/')+1:] {
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

func token(r *cbs.Request) {
	if string(r.Token) != "good" {
		r.Respond(cbs.Unauthorized, "a bad token")
		return
	}
	r.Respond(cbs.OK, "OK")
}

// conform runs a foreign client, which is given the address of a server, sends
// so many messages to it, and receives so many, with each outcome in turn.
func conform(t *testing.T, ln net.Listener, sends, receives int64, client func(address string) *exec.Cmd) {
	var messages atomic.Int64
	var outcomes [8]atomic.Int64
	server := amqp.Server{
		NewConn: func(*amqp.Conn) amqp.ConnHandler {
			return &conformer{t: t, cbs: cbs.New(token), messages: &messages, outcomes: &outcomes}
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
	if n := messages.Load(); n != sends {
		t.Errorf("%d messages, want %d", n, sends)
	}
	for _, code := range []wire.StateCode{wire.StateAccepted, wire.StateRejected, wire.StateModified, wire.StateReleased} {
		if got := outcomes[code&7].Load(); got != receives/4 {
			t.Errorf("%v: %d", code, got)
		}
	}
}

// Needs Debian's packages python3 and python3-qpid-proton.
func TestQpidProton(t *testing.T) {
	conform(t, listen(t), 3*(1000+1+1+2+100+100), 600, func(address string) *exec.Cmd {
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
	conform(t, listen(t), 3*(1000+1+1+2+100), 600, func(address string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), "node", "client.js", address)
		c.Dir = dir
		return c
	})
}

// Needs Debian's packages python3 and python3-uamqp.
func TestUAMQP(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	ln := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conform(t, ln, 2*501, 200, func(address string) *exec.Cmd {
		_, port, _ := net.SplitHostPort(address)
		return exec.CommandContext(ctx, "/usr/bin/python3", "testdata/uamqp_client.py", port, file)
	})
}

func listen(t *testing.T) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}
