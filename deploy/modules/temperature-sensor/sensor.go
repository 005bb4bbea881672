package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

const output = "temperatureOutput"

// sender is the part of the client that is used.
type sender interface {
	SendOutput(ctx context.Context, output string, m *iothub.Message) error
	Twin(ctx context.Context) (iothub.TwinProperties, error)
	PatchReported(ctx context.Context, patch json.RawMessage) (int64, error)
}

// sensor is the module.
type sensor struct {
	client    sender
	log       *slog.Logger
	batch     string
	count     int
	connected chan struct{} // a connection was made: read the twin
	changed   chan struct{} // settings have changed

	mu      sync.Mutex
	machine *machine
	usual   time.Duration // without a twin setting
	delay   time.Duration
	active  bool
}

func newSensor(s settings, random *mathrand.Rand, log *slog.Logger) *sensor {
	return &sensor{
		log: log, batch: rand.Text(), count: s.count, machine: newMachine(s.limits, random),
		usual: s.delay, delay: s.delay, active: true,
		connected: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *sensor) connection(c client.Connection) {
	if c.State == client.Connected {
		poke(s.connected)
	}
}

// send sends readings until the count is reached, and then waits for the end: a
// module that ends would be started again.
func (s *sensor) send(ctx context.Context) error {
	for n := 1; s.count < 0 || n <= s.count; n++ {
		if !s.pause(ctx) {
			return nil
		}
		s.mu.Lock()
		r := s.machine.step(time.Now())
		s.mu.Unlock()
		if err := s.sendOne(ctx, n, r); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // told to end
			}
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// pause waits until the next reading is due. It returns false when ctx has ended.
func (s *sensor) pause(ctx context.Context) bool {
	begin := time.Now()
	for {
		s.mu.Lock()
		delay, active := s.delay, s.active
		s.mu.Unlock()
		wait := time.Until(begin.Add(delay))
		if !active {
			wait = time.Hour // until the setting changes
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-s.changed:
			timer.Stop()
		case <-timer.C:
			if active {
				return true
			}
		}
	}
}

func (s *sensor) sendOne(ctx context.Context, n int, r reading) error {
	body, err := r.encode()
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	m := &iothub.Message{Body: body}
	m.System.Set(iothub.ContentType, "application/json")
	m.System.Set(iothub.ContentEncoding, "utf-8")
	m.System.Set(iothub.MessageID, s.batch+"-"+strconv.Itoa(n))
	m.Properties.Set("batchId", s.batch)
	m.Properties.Set("sequenceNumber", strconv.Itoa(n))
	if err := s.client.SendOutput(ctx, output, m); err != nil {
		return fmt.Errorf("send reading %d: %w", n, err)
	}
	s.log.Info("acknowledged", "batch", s.batch, "sequence", n, "temperature", r.Machine.Temperature)
	return nil
}

func (s *sensor) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machine.reset()
	s.log.Info("reset")
}

// method answers direct methods.
func (s *sensor) method(_ context.Context, r iothub.MethodRequest) iothub.MethodResponse {
	if r.Name != "reset" {
		return iothub.MethodResponse{Status: http.StatusNotFound, Payload: json.RawMessage(`{"message":"method is not known"}`)}
	}
	s.reset()
	return iothub.MethodResponse{Status: http.StatusOK}
}

// control takes [{"command": 0}] (reset) on the input "control"; other messages are
// dropped with a line in the log.
func (s *sensor) control(_ context.Context, input string, m *iothub.Message) error {
	var commands []struct {
		Command any `json:"command"`
	}
	if input != "control" {
		s.log.Warn("message on an unknown input", "input", input)
		return nil
	}
	if err := json.Unmarshal(m.Body, &commands); err != nil {
		s.log.Warn("control message is not a list of commands", "error", err)
		return nil
	}
	for _, c := range commands {
		switch c.Command {
		case 0.0, "reset", "Reset":
			s.reset()
		default:
			s.log.Warn("unknown command", "command", c.Command)
		}
	}
	return nil
}

// desired notes that the twin has changed; follow reads it as a whole, because a
// patch may have been missed.
func (s *sensor) desired(context.Context, json.RawMessage, int64) { poke(s.connected) }

// follow reads the twin after each connect and change, and reports what it took.
func (s *sensor) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.connected:
		}
		t, err := s.client.Twin(ctx)
		if err == nil {
			err = s.apply(ctx, t.Desired)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("twin settings not taken", "error", err)
		}
	}
}

// apply takes the settings of the twin and reports them. Settings that are wrong
// are refused as a whole.
func (s *sensor) apply(ctx context.Context, desired json.RawMessage) error {
	var want struct {
		SendData     *bool    `json:"SendData"`
		SendInterval *float64 `json:"SendInterval"` // seconds
		Version      int64    `json:"$version"`
	}
	if err := json.Unmarshal(desired, &want); err != nil {
		return fmt.Errorf("desired properties: %w", err)
	}
	if want.SendInterval != nil && !(*want.SendInterval >= 0.001 && *want.SendInterval <= 86400) {
		return errors.New("desired properties: SendInterval must be from 0.001 to 86400 seconds")
	}
	s.mu.Lock()
	s.active = want.SendData == nil || *want.SendData
	s.delay = s.usual
	if want.SendInterval != nil {
		s.delay = time.Duration(*want.SendInterval * float64(time.Second))
	}
	report, err := json.Marshal(map[string]any{"SendData": s.active, "SendInterval": s.delay.Seconds()})
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	poke(s.changed)
	if _, err := s.client.PatchReported(ctx, report); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
