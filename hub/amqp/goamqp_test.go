package amqp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

func condition(err error) string {
	var le *goamqp.LinkError
	var ce *goamqp.ConnError
	var se *goamqp.SessionError
	var e *goamqp.Error
	switch {
	case errors.As(err, &le) && le.RemoteErr != nil:
		return string(le.RemoteErr.Condition)
	case errors.As(err, &ce) && ce.RemoteErr != nil:
		return string(ce.RemoteErr.Condition)
	case errors.As(err, &se) && se.RemoteErr != nil:
		return string(se.RemoteErr.Condition)
	case errors.As(err, &e):
		return string(e.Condition)
	}
	return fmt.Sprint(err)
}

func TestClientSendsInEveryMode(t *testing.T) {
	for name, mode := range map[string]*goamqp.SenderSettleMode{
		"mixed": nil, "unsettled": goamqp.SenderSettleModeUnsettled.Ptr(), "settled": goamqp.SenderSettleModeSettled.Ptr(),
	} {
		t.Run(name, func(t *testing.T) {
			var got atomic.Int32
			n := &node{window: 7, delivery: func(d *amqp.Delivery) {
				m, err := d.Message()
				if err != nil || string(m.Data[0]) != fmt.Sprint(got.Load()) || d.Settled() != (name == "settled") {
					t.Errorf("message %d: %v, %v", got.Load(), m, err)
				}
				got.Add(1)
				d.Accept()
			}}
			_, session := dial(t, n, amqp.Options{}, nil)
			sender, err := session.NewSender(t.Context(), "a", &goamqp.SenderOptions{SettlementMode: mode})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				if err := sender.Send(t.Context(), goamqp.NewMessage(fmt.Append(nil, i)), nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := sender.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got.Load() != 100 {
				t.Fatal(got.Load())
			}
		})
	}
}

func TestClientHearsEveryOutcome(t *testing.T) {
	n := &node{delivery: func(d *amqp.Delivery) {
		m, _ := d.Message()
		switch string(m.Data[0]) {
		case "reject":
			d.Reject(wire.Errorf("com.example:full", "no room"))
		case "release":
			d.Release()
		case "modify":
			d.Settle(wire.Modified(true, true))
		}
		d.Release() // the second answer must not count
	}}
	_, session := dial(t, n, amqp.Options{}, nil)
	sender, err := session.NewSender(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ body, want string }{
		{"reject", "*encoding.StateRejected"}, {"release", "*encoding.StateReleased"}, {"modify", "*encoding.StateModified"},
	} {
		receipt, err := sender.SendWithReceipt(t.Context(), goamqp.NewMessage([]byte(c.body)), nil)
		if err != nil {
			t.Fatal(err)
		}
		state, err := receipt.Wait(t.Context())
		if err != nil || fmt.Sprintf("%T", state) != c.want {
			t.Errorf("%s: %T, %v", c.body, state, err)
		}
		if r, ok := state.(*goamqp.StateRejected); ok && (r.Error == nil || r.Error.Condition != "com.example:full") {
			t.Errorf("%+v", r)
		}
	}
}

func TestLargeMessagesCrossInFragmentsBothWays(t *testing.T) {
	for _, frame := range []uint32{512, 4096, 65536} {
		t.Run(fmt.Sprint(frame), func(t *testing.T) {
			body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16-8) // nearly 1 MiB
			received := make(chan []byte, 1)
			n := &node{delivery: func(d *amqp.Delivery) {
				m, err := d.Message()
				if err != nil {
					t.Error(err)
					return
				}
				received <- m.Data[0]
				d.Accept()
			}}
			_, session := dial(t, n, engineOptions(engine.Options{MaxFrameSize: frame}), &goamqp.ConnOptions{MaxFrameSize: frame})
			sender, err := session.NewSender(t.Context(), "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := sender.Send(t.Context(), goamqp.NewMessage(body), nil); err != nil {
				t.Fatal(err)
			}
			if got := <-received; !bytes.Equal(got, body) {
				t.Fatalf("%d bytes arrived", len(got))
			}
			receiver, err := session.NewReceiver(t.Context(), "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := n.waitSender(t, 0).Send(wire.NewMessage(body), amqp.SendOptions{}, nil); err != nil {
				t.Fatal(err)
			}
			m, err := receiver.Receive(t.Context(), nil)
			if err != nil || !bytes.Equal(m.GetData(), body) {
				t.Fatal(err)
			}
		})
	}
}

func TestTheClientKnowsTheLargestMessage(t *testing.T) {
	n := &node{}
	n.attach = func(a *amqp.Attach) {
		a.AcceptReceiver(n, amqp.ReceiverOptions{Reply: amqp.Reply{MaxMessageSize: 1000}})
	}
	_, session := dial(t, n, amqp.Options{}, nil)
	sender, err := session.NewSender(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if sender.MaxMessageSize() != 1000 {
		t.Fatal(sender.MaxMessageSize())
	}
	if err := sender.Send(t.Context(), goamqp.NewMessage(make([]byte, 2000)), nil); err == nil {
		t.Fatal("the client must refuse by itself")
	}
}

func TestServerHearsEveryOutcome(t *testing.T) {
	for _, mode := range []goamqp.ReceiverSettleMode{goamqp.ReceiverSettleModeFirst, goamqp.ReceiverSettleModeSecond} {
		t.Run(mode.String(), func(t *testing.T) {
			n := &node{}
			_, session := dial(t, n, amqp.Options{}, nil)
			receiver, err := session.NewReceiver(t.Context(), "a", &goamqp.ReceiverOptions{SettlementMode: mode.Ptr(), Credit: 10})
			if err != nil {
				t.Fatal(err)
			}
			s := n.waitSender(t, 0)
			for _, c := range []struct {
				want   wire.StateCode
				settle func(*goamqp.Message) error
			}{
				{wire.StateAccepted, func(m *goamqp.Message) error { return receiver.AcceptMessage(t.Context(), m) }},
				{wire.StateRejected, func(m *goamqp.Message) error {
					return receiver.RejectMessage(t.Context(), m, &goamqp.Error{Condition: "x:y"})
				}},
				{wire.StateReleased, func(m *goamqp.Message) error { return receiver.ReleaseMessage(t.Context(), m) }},
				{wire.StateModified, func(m *goamqp.Message) error {
					return receiver.ModifyMessage(t.Context(), m, &goamqp.ModifyMessageOptions{DeliveryFailed: true, UndeliverableHere: true})
				}},
			} {
				outcomes := make(chan amqp.Outcome, 1)
				if err := s.Send(wire.NewMessage([]byte("m")), amqp.SendOptions{}, func(o amqp.Outcome) { outcomes <- o }); err != nil {
					t.Fatal(err)
				}
				m, err := receiver.Receive(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.settle(m); err != nil {
					t.Fatal(err)
				}
				o := <-outcomes
				if o.State.Code != c.want || o.Lost {
					t.Errorf("%+v, want %v", o, c.want)
				}
				if c.want == wire.StateRejected && o.State.Error.Condition != "x:y" {
					t.Error(o.State.Error)
				}
				if c.want == wire.StateModified && (!o.State.DeliveryFailed || !o.State.UndeliverableHere) {
					t.Errorf("%+v", o.State)
				}
			}
		})
	}
}

func TestConfirmingByHandMakesTheClientWait(t *testing.T) {
	n := &node{sender: amqp.SenderOptions{ManualConfirm: true}}
	_, session := dial(t, n, amqp.Options{}, nil)
	receiver, err := session.NewReceiver(t.Context(), "a", &goamqp.ReceiverOptions{SettlementMode: goamqp.ReceiverSettleModeSecond.Ptr()})
	if err != nil {
		t.Fatal(err)
	}
	var confirmed atomic.Bool
	err = n.waitSender(t, 0).Send(wire.NewMessage([]byte("m")), amqp.SendOptions{}, func(o amqp.Outcome) {
		time.AfterFunc(50*time.Millisecond, func() {
			confirmed.Store(true)
			o.Confirm(wire.Accepted())
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := receiver.Receive(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := receiver.AcceptMessage(t.Context(), m); err != nil || !confirmed.Load() {
		t.Fatal("accepted before the confirmation", err)
	}
}

func TestMessagesWaitForCreditInOrder(t *testing.T) {
	n := &node{}
	_, session := dial(t, n, amqp.Options{}, nil)
	receiver, err := session.NewReceiver(t.Context(), "a", &goamqp.ReceiverOptions{Credit: -1})
	if err != nil {
		t.Fatal(err)
	}
	s := n.waitSender(t, 0)
	var settled atomic.Int32
	for i := range 100 {
		if err := s.Send(wire.NewMessage(fmt.Append(nil, i)), amqp.SendOptions{}, func(amqp.Outcome) { settled.Add(1) }); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if m, err := receiver.Receive(short, nil); err == nil {
		t.Fatal("a message without credit", m)
	}
	for i := range 100 {
		if i%10 == 0 {
			if err := receiver.IssueCredit(10); err != nil {
				t.Fatal(err)
			}
		}
		m, err := receiver.Receive(t.Context(), nil)
		if err != nil || string(m.GetData()) != fmt.Sprint(i) {
			t.Fatal(i, m, err)
		}
		if err := receiver.AcceptMessage(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := receiver.Close(t.Context()); err != nil || settled.Load() != 100 {
		t.Fatal(settled.Load(), err)
	}
}

func TestSendRefusesMoreThanItMayHold(t *testing.T) {
	n := &node{sender: amqp.SenderOptions{MaxInFlight: 3}}
	_, session := dial(t, n, amqp.Options{}, nil)
	receiver, err := session.NewReceiver(t.Context(), "a", &goamqp.ReceiverOptions{Credit: -1})
	if err != nil {
		t.Fatal(err)
	}
	s := n.waitSender(t, 0)
	var lost atomic.Int32
	send := func() error {
		return s.Send(wire.NewMessage(nil), amqp.SendOptions{}, func(o amqp.Outcome) {
			if o.Lost {
				lost.Add(1)
			}
		})
	}
	for range 3 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	if err := send(); !errors.Is(err, amqp.ErrQueueFull) {
		t.Fatal(err)
	}
	if err := receiver.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lost.Load() != 3 {
		t.Fatal(lost.Load())
	}
	if err := send(); !errors.Is(err, amqp.ErrLinkGone) {
		t.Fatal(err)
	}
}

func TestDrainGivesCreditBack(t *testing.T) {
	n := &node{credit: func(s *amqp.Sender, credit uint32, drain bool) {
		if credit == 10 && !drain {
			for i := range 3 {
				if err := s.Send(wire.NewMessage(fmt.Append(nil, i)), amqp.SendOptions{}, nil); err != nil {
					t.Error(err)
				}
			}
		}
	}}
	_, session := dial(t, n, amqp.Options{}, nil)
	receiver, err := session.NewReceiver(t.Context(), "a", &goamqp.ReceiverOptions{Credit: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := receiver.IssueCredit(10); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		m, err := receiver.Receive(t.Context(), nil)
		if err != nil || string(m.GetData()) != fmt.Sprint(i) {
			t.Fatal(i, m, err)
		}
	}
	if s := n.waitSender(t, 0); s.Credit() != 7 {
		t.Fatal(s.Credit())
	}
	if err := receiver.DrainCredit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if s := n.waitSender(t, 0); s.Credit() != 0 {
		t.Fatal(s.Credit())
	}
	if err := receiver.IssueCredit(1); err != nil {
		t.Fatal(err)
	}
	if err := n.waitSender(t, 0).Send(wire.NewMessage([]byte("more")), amqp.SendOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if m, err := receiver.Receive(t.Context(), nil); err != nil || string(m.GetData()) != "more" {
		t.Fatal(m, err)
	}
}

func TestManyLinksOnManySessions(t *testing.T) {
	const sessions, links, messages = 20, 10, 10
	var got atomic.Int32
	n := &node{delivery: func(d *amqp.Delivery) { got.Add(1); go d.Accept() }}
	c, _ := dial(t, n, amqp.Options{}, &goamqp.ConnOptions{MaxSessions: 100})
	var wg sync.WaitGroup
	for range sessions {
		session, err := c.NewSession(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for range links {
			wg.Go(func() {
				sender, err := session.NewSender(t.Context(), "a", nil)
				if err != nil {
					t.Error(err)
					return
				}
				for range messages {
					if err := sender.Send(t.Context(), goamqp.NewMessage([]byte("x")), nil); err != nil {
						t.Error(err)
					}
				}
				if err := sender.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if got.Load() != sessions*links*messages {
		t.Fatal(got.Load())
	}
}

func TestRefusalsAndDetachesCarryTheirError(t *testing.T) {
	n := &node{}
	n.attach = func(a *amqp.Attach) {
		switch {
		case a.Address() == "no":
			go a.Refuse(wire.Errorf(wire.CondUnauthorizedAccess, "not you"))
		case a.ClientSends():
			r := a.AcceptReceiver(n, amqp.ReceiverOptions{})
			n.delivery = func(*amqp.Delivery) { r.Detach(wire.Errorf(wire.CondDetachForced, "go")) }
		default:
			s := a.AcceptSender(n, amqp.SenderOptions{})
			n.credit = func(*amqp.Sender, uint32, bool) { s.Detach(wire.Errorf("com.example:x", "go")) }
		}
	}
	c, session := dial(t, n, amqp.Options{}, nil)
	if _, err := session.NewSender(t.Context(), "no", nil); condition(err) != wire.CondUnauthorizedAccess {
		t.Error(err)
	}
	if _, err := session.NewReceiver(t.Context(), "no", nil); condition(err) != wire.CondUnauthorizedAccess {
		t.Error(err)
	}
	sender, err := session.NewSender(t.Context(), "yes", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sender.Send(t.Context(), goamqp.NewMessage([]byte("x")), nil); condition(err) != wire.CondDetachForced {
		t.Error(err)
	}
	receiver, err := session.NewReceiver(t.Context(), "yes", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receiver.Receive(t.Context(), nil); condition(err) != "com.example:x" {
		t.Error(err)
	}
	n.conn.Close(wire.Errorf(wire.CondConnectionForced, "bye"))
	<-n.closed
	if _, err := c.NewSession(t.Context(), nil); condition(err) != wire.CondConnectionForced {
		t.Error(err)
	}
}

func TestTheClientEndsInPeace(t *testing.T) {
	n := &node{}
	c, session := dial(t, n, amqp.Options{}, nil)
	if _, err := session.NewReceiver(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	if err := session.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-n.closed; err != nil {
		t.Fatal(err)
	}
}

func TestSASLMechanisms(t *testing.T) {
	o := engineOptions(engine.Options{Mechanisms: []string{"MSSBCBS", "PLAIN", "ANONYMOUS"}, RequireSASL: true})
	check := func(s *amqp.SASL) {
		_, user, pass, ok := amqp.Plain(s.Response)
		if s.Mechanism() == "PLAIN" && (!ok || user != "me" || pass != "secret") {
			s.Refuse(wire.SASLAuth)
			return
		}
		go s.Accept()
	}
	for name, c := range map[string]struct {
		sasl goamqp.SASLType
		ok   bool
	}{
		"anonymous": {goamqp.SASLTypeAnonymous(), true}, "plain": {goamqp.SASLTypePlain("me", "secret"), true},
		"wrong password": {goamqp.SASLTypePlain("me", "guess"), false}, "none": {nil, false},
		"not on offer": {goamqp.SASLTypeExternal(""), false},
	} {
		t.Run(name, func(t *testing.T) {
			nc := serve(t, &node{sasl: check}, o)
			conn, err := goamqp.NewConn(t.Context(), nc, &goamqp.ConnOptions{SASLType: c.sasl})
			if (err == nil) != c.ok {
				t.Fatal(err)
			}
			if err == nil {
				_ = conn.Close()
			}
		})
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{"z\x00c\x00p": "z c p true", "\x00\x00": "   true", "a": "   false", "\x00a\x00b\x00": "   false"} {
		z, c, p, ok := amqp.Plain([]byte(in))
		if got := strings.Join([]string{z, c, p, fmt.Sprint(ok)}, " "); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestOpenCanBeRefused(t *testing.T) {
	n := &node{open: func(o *amqp.Open) { go o.Refuse(wire.Errorf(wire.CondNotAllowed, "no %s", o.ContainerID)) }}
	_, err := goamqp.NewConn(t.Context(), serve(t, n, amqp.Options{}), &goamqp.ConnOptions{ContainerID: "x"})
	if err == nil {
		// go-amqp takes the open that precedes the close as success.
		err = <-n.closed
	}
	if !strings.Contains(fmt.Sprint(err), wire.CondNotAllowed) {
		t.Fatal(err)
	}
}

func TestStoppingTellsTheClient(t *testing.T) {
	n := &node{}
	ours, theirs := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	n.closed = make(chan error, 1)
	done := make(chan error)
	s := &amqp.Server{NewConn: func(*amqp.Conn) amqp.ConnHandler { return n }}
	go func() { done <- s.Serve(ctx, ours) }()
	c, err := goamqp.NewConn(t.Context(), theirs, nil)
	if err != nil {
		t.Fatal(err)
	}
	session, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := session.NewReceiver(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.Receive(t.Context(), nil); condition(err) != wire.CondConnectionForced {
		t.Error(err)
	}
	var e *wire.Error
	if err := <-done; !errors.As(err, &e) || e.Condition != wire.CondConnectionForced {
		t.Error(err)
	}
}
