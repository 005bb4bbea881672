package cbs_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp/cbs"
)

// Anybody may use the node, so what it keeps for a client that does not read its
// answers has a bound.
func TestAnswersThatNobodyTakesAreBounded(t *testing.T) {
	c := dial(t, func(r *cbs.Request) { r.Respond(cbs.Unauthorized, "no") })
	session, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := session.NewReceiver(t.Context(), "$cbs", &goamqp.ReceiverOptions{Credit: -1})
	if err != nil {
		t.Fatal(err)
	}
	sender, err := session.NewSender(t.Context(), "$cbs", nil)
	if err != nil {
		t.Fatal(err)
	}
	const asked, most = 1500, 1024
	for i := range asked {
		if err := sender.Send(t.Context(), request(fmt.Sprint("id", i), "x", "cbs"), nil); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := receiver.IssueCredit(asked); err != nil {
		t.Fatal(err)
	}
	for i := range most {
		m, err := receiver.Receive(t.Context(), nil)
		if err != nil {
			t.Fatal(i, err)
		}
		if m.Properties.CorrelationID != fmt.Sprint("id", i) {
			t.Fatal(m.Properties.CorrelationID)
		}
		if err := receiver.AcceptMessage(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	// There are no more, and those that were taken have made room.
	if m := exchange(t, sender, receiver, request("last", "x", "cbs")); m.Properties.CorrelationID != "last" {
		t.Fatal(m.Properties.CorrelationID)
	}
}

func TestLongIDsAreNotRepeated(t *testing.T) {
	c := dial(t, verify)
	_, sender, receiver := pair(t, c, "cbs")
	long := strings.Repeat("x", 50_000)
	for id, want := range map[any]any{long: nil, "short": "short", strings.Repeat("y", 1<<10): strings.Repeat("y", 1<<10)} {
		if got := exchange(t, sender, receiver, request(id, "good", "cbs")).Properties.CorrelationID; got != want {
			t.Errorf("answered with %.20v of %d", got, len(fmt.Sprint(got)))
		}
	}
	if got := exchange(t, sender, receiver, request("a", "good", long)).Properties; got.To != nil && *got.To != "" {
		t.Errorf("answered to %.20s", *got.To)
	}
}

func TestRequestsOf64KiBAreTooLarge(t *testing.T) {
	c := dial(t, verify)
	_, sender, _ := pair(t, c, "cbs")
	if n := sender.MaxMessageSize(); n != 64<<10 {
		t.Errorf("the client may send %d bytes", n)
	}
}

func TestLinksForAnswersAreBounded(t *testing.T) {
	c := dial(t, verify)
	session, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	attach := func() (*goamqp.Receiver, error) { return session.NewReceiver(t.Context(), "$cbs", nil) }
	var first *goamqp.Receiver
	for i := range 64 {
		r, err := attach()
		if err != nil {
			t.Fatal(i, err)
		}
		if first == nil {
			first = r
		}
	}
	var refused *goamqp.Error
	if _, err := attach(); !errors.As(err, &refused) || refused.Condition != goamqp.ErrCondResourceLimitExceeded {
		t.Fatal(err)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := attach(); err != nil {
		t.Fatal(err)
	}
}
