package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

type fakeHub struct {
	sent []*iothub.Message
	fail error
}

func (h *fakeHub) SendOutput(_ context.Context, name string, m *iothub.Message) error {
	if name != output {
		return errors.New("wrong output")
	}
	if h.fail == nil {
		h.sent = append(h.sent, m)
	}
	return h.fail
}

func (h *fakeHub) Twin(context.Context) (iothub.TwinProperties, error) {
	return iothub.TwinProperties{}, errors.New("not asked in this test")
}

func TestFilter(t *testing.T) {
	tests := []struct {
		name, input, body string
		passed            bool
	}{
		{"hot", input, `{"machine":{"temperature":30.5}}`, true},
		{"cold", input, `{"machine":{"temperature":24}}`, false},
		{"at the threshold", input, `{"machine":{"temperature":25}}`, false},
		{"other input", "input2", `{"machine":{"temperature":30.5}}`, false},
		{"no reading", input, `{"a":1}`, false},
		{"no JSON", input, `<xml/>`, false},
		{"empty", input, ``, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &fakeHub{}
			f := newFilter(slog.New(slog.DiscardHandler))
			f.client = h
			m := &iothub.Message{Body: []byte(tt.body)}
			m.Properties.Set("sequenceNumber", "1")
			m.System.Set(iothub.ContentType, "application/json")
			m.System.Set(iothub.ConnectionModuleID, "sender")
			if err := f.message(t.Context(), tt.input, m); err != nil {
				t.Fatal(err)
			}
			if (len(h.sent) == 1) != tt.passed {
				t.Fatalf("sent %d messages", len(h.sent))
			}
			if !tt.passed {
				return
			}
			got := h.sent[0]
			if string(got.Body) != tt.body || got.Properties.Get("sequenceNumber") != "1" || got.Properties.Get("MessageType") != "Alert" ||
				got.System.Get(iothub.ContentType) != "application/json" || got.System.Get(iothub.ConnectionModuleID) != "" {
				t.Errorf("message %+v", got)
			}
			if m.Properties.Get("MessageType") != "" {
				t.Error("the message that came in was changed")
			}
		})
	}
}

func TestMessageThatCannotBePassedOnIsNotSettled(t *testing.T) {
	h := &fakeHub{fail: errors.New("hub is away")}
	f := newFilter(slog.New(slog.DiscardHandler))
	f.client = h
	if err := f.message(t.Context(), input, &iothub.Message{Body: []byte(`{"machine":{"temperature":99}}`)}); !errors.Is(err, h.fail) {
		t.Errorf("error %v", err)
	}
}

func TestThresholdFollowsTheTwin(t *testing.T) {
	h := &fakeHub{}
	f := newFilter(slog.New(slog.DiscardHandler))
	f.client = h
	warm := &iothub.Message{Body: []byte(`{"machine":{"temperature":22}}`)}
	for _, step := range []struct {
		desired string
		bad     bool
		sent    int
	}{
		{`{"TemperatureThreshold":21}`, false, 1},
		{`{"TemperatureThreshold":"hot"}`, true, 2}, // refused: 21 stays
		{`{}`, false, 2}, // back to 25
	} {
		if err := f.apply(json.RawMessage(step.desired)); (err != nil) != step.bad {
			t.Errorf("%s: %v", step.desired, err)
		}
		if err := f.message(t.Context(), input, warm); err != nil {
			t.Fatal(err)
		}
		if len(h.sent) != step.sent {
			t.Errorf("after %s: %d messages sent", step.desired, len(h.sent))
		}
	}
}
