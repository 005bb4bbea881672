package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// hub is the other side of the client.
type hub struct {
	mu       sync.Mutex
	twin     string
	sent     []*iothub.Message
	reported []string
}

func (h *hub) SendOutput(_ context.Context, name string, m *iothub.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if name == output {
		h.sent = append(h.sent, m)
	}
	return nil
}

func (h *hub) Twin(context.Context) (iothub.TwinProperties, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return iothub.TwinProperties{Desired: json.RawMessage(h.twin)}, nil
}

func (h *hub) PatchReported(_ context.Context, patch json.RawMessage) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reported = append(h.reported, string(patch))
	return 1, nil
}

func (h *hub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sent)
}

func (h *hub) set(twin string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.twin = twin
}

// running starts a sensor in virtual time.
func running(t *testing.T, h *hub, s settings) *sensor {
	t.Helper()
	m := newSensor(s, seeded(), slog.New(slog.DiscardHandler))
	m.client = h
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.send(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := m.follow(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return m
}

func TestSensorSendsAtItsPaceUntilItsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hub{}
		running(t, h, settings{limits: usual, count: 7, delay: 2 * time.Second})
		time.Sleep(9 * time.Second)
		if n := h.count(); n != 4 {
			t.Errorf("%d messages in 9 seconds", n)
		}
		time.Sleep(time.Minute)
		if n := h.count(); n != 7 {
			t.Errorf("%d messages in all", n)
		}
		m := h.sent[6]
		if m.Properties.Get("sequenceNumber") != "7" || m.System.Get(iothub.ContentType) != "application/json" ||
			m.System.Get(iothub.ContentEncoding) != "utf-8" || m.Properties.Get("batchId") == "" {
			t.Errorf("message %+v", m)
		}
	})
}

func TestTwinSettingsAreTakenAndReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hub{twin: `{"SendInterval":10,"$version":2}`}
		m := running(t, h, settings{limits: usual, count: -1, delay: time.Second})
		poke(m.connected)
		time.Sleep(35 * time.Second)
		if n := h.count(); n < 3 || n > 4 {
			t.Errorf("%d messages in 35 seconds", n)
		}
		h.set(`{"SendData":false,"$version":3}`)
		m.desired(t.Context(), nil, 3)
		synctest.Wait()
		before := h.count()
		time.Sleep(3 * time.Hour)
		if n := h.count() - before; n != 0 {
			t.Errorf("%d messages while switched off", n)
		}
		h.set(`{"SendData":true,"$version":4}`)
		m.desired(t.Context(), nil, 4)
		time.Sleep(5*time.Second + time.Millisecond)
		if n := h.count() - before; n < 5 {
			t.Errorf("%d messages after switching on", n)
		}
		if last := h.reported[len(h.reported)-1]; last != `{"SendData":true,"SendInterval":1}` {
			t.Errorf("reported %s", last)
		}
	})
}

func TestWrongTwinSettingsChangeNothing(t *testing.T) {
	for _, desired := range []string{`{"SendInterval":0}`, `{"SendInterval":-1}`, `{"SendInterval":"x"}`, `{"SendData":1}`, `[]`} {
		h := &hub{}
		m := newSensor(settings{limits: usual, delay: time.Second}, seeded(), slog.New(slog.DiscardHandler))
		m.client = h
		if err := m.apply(t.Context(), json.RawMessage(desired)); err == nil {
			t.Errorf("%s was taken", desired)
		}
		if m.delay != time.Second || !m.active || len(h.reported) != 0 {
			t.Errorf("%s changed something", desired)
		}
	}
}

func TestResetByMethodAndByMessage(t *testing.T) {
	m := newSensor(settings{limits: usual}, seeded(), slog.New(slog.DiscardHandler))
	warm := func() {
		for range 50 {
			m.machine.step(time.Now())
		}
	}
	warm()
	if r := m.method(t.Context(), iothub.MethodRequest{Name: "reset"}); r.Status != 200 || m.machine.temperature != usual.TemperatureMin {
		t.Errorf("method: status %d, temperature %v", r.Status, m.machine.temperature)
	}
	if r := m.method(t.Context(), iothub.MethodRequest{Name: "other"}); r.Status != 404 {
		t.Errorf("unknown method: status %d", r.Status)
	}
	for _, body := range []string{`[{"command":0}]`, `[{"command":"reset"}]`} {
		warm()
		if err := m.control(t.Context(), "control", &iothub.Message{Body: []byte(body)}); err != nil || m.machine.temperature != usual.TemperatureMin {
			t.Errorf("%s: %v, temperature %v", body, err, m.machine.temperature)
		}
	}
	warm()
	for _, body := range []string{`[{"command":1}]`, `{}`, `nonsense`, ``} {
		if err := m.control(t.Context(), "control", &iothub.Message{Body: []byte(body)}); err != nil || m.machine.temperature == usual.TemperatureMin {
			t.Errorf("%s: %v, temperature %v", body, err, m.machine.temperature)
		}
	}
}

func TestSettings(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	s, err := settingsFrom(env(map[string]string{"MessageCount": "-1", "MessageDelay": "00:00:00.200", "SimulatorConfig__MachineTempMin": "5"}))
	if err != nil || s.count != -1 || s.delay != 200*time.Millisecond || s.TemperatureMin != 5 || s.TemperatureMax != 100 {
		t.Errorf("settings %+v, %v", s, err)
	}
	if s, err = settingsFrom(env(nil)); err != nil || s.count != 500 || s.delay != 5*time.Second {
		t.Errorf("defaults %+v, %v", s, err)
	}
	for _, delay := range []string{"5", "00:00:00", "00:60:00", "00:00:60", "-1:00:00", "a:b:c", "00:00:NaN"} {
		if _, err := settingsFrom(env(map[string]string{"MessageDelay": delay})); err == nil {
			t.Errorf("MessageDelay %q was taken", delay)
		}
	}
}
