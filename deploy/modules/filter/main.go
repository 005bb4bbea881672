// Command filter is a sample module: it passes readings that are hot enough from
// its input "input1" on to its output "output1", with the property
// MessageType=Alert. The twin sets TemperatureThreshold (25 degrees if not set).
//
// A message is settled at its input only after the hub has acknowledged it at the
// output, so none is lost on the way through.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

const (
	input            = "input1"
	output           = "output1"
	defaultThreshold = 25
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	if err := run(ctx, os.Getenv, log); err != nil {
		log.Error("filter ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, getenv func(string) string, log *slog.Logger) error {
	f := newFilter(log)
	c, err := client.FromEnvironment(ctx, getenv, client.Options{
		Retry: true, ProductInfo: "breakwater-filter", Logger: log,
		OnConnection: func(c client.Connection) {
			if c.State == client.Connected {
				f.readTwin()
			}
		},
	})
	if err != nil {
		return err
	}
	f.client = c
	c.OnInput(f.message)
	c.OnDesired(func(context.Context, json.RawMessage, int64) { f.readTwin() })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Run(ctx) })
	g.Go(func() error { return f.follow(ctx) })
	return g.Wait()
}

// hub is the part of the client that is used.
type hub interface {
	SendOutput(ctx context.Context, output string, m *iothub.Message) error
	Twin(ctx context.Context) (iothub.TwinProperties, error)
}

// filter is the module.
type filter struct {
	client    hub
	log       *slog.Logger
	twin      chan struct{} // the twin is to be read
	threshold atomic.Uint64 // bits of a float64, degrees Celsius
}

func newFilter(log *slog.Logger) *filter {
	f := &filter{log: log, twin: make(chan struct{}, 1)}
	f.threshold.Store(math.Float64bits(defaultThreshold))
	return f
}

func (f *filter) readTwin() {
	select {
	case f.twin <- struct{}{}:
	default:
	}
}

// follow takes the threshold from the twin after each connect and change.
func (f *filter) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.twin:
		}
		t, err := f.client.Twin(ctx)
		if err == nil {
			err = f.apply(t.Desired)
		}
		if err != nil && ctx.Err() == nil {
			f.log.Warn("twin settings not taken", "error", err)
		}
	}
}

func (f *filter) apply(desired json.RawMessage) error {
	var want struct {
		Threshold *float64 `json:"TemperatureThreshold"`
	}
	if err := json.Unmarshal(desired, &want); err != nil {
		return fmt.Errorf("desired properties: %w", err)
	}
	threshold := float64(defaultThreshold)
	if want.Threshold != nil {
		threshold = *want.Threshold
	}
	f.threshold.Store(math.Float64bits(threshold))
	f.log.Info("threshold", "degrees", threshold)
	return nil
}

// message passes a reading on if it is hot enough. What is no reading is dropped
// with a line in the log: it would come again for ever.
func (f *filter) message(ctx context.Context, name string, m *iothub.Message) error {
	var r struct {
		Machine *struct {
			Temperature float64 `json:"temperature"`
		} `json:"machine"`
	}
	if name != input {
		f.log.Warn("message on an unknown input", "input", name)
		return nil
	}
	if err := json.Unmarshal(m.Body, &r); err != nil || r.Machine == nil {
		f.log.Warn("message is no reading", "error", err)
		return nil
	}
	if r.Machine.Temperature <= math.Float64frombits(f.threshold.Load()) {
		return nil
	}
	out := &iothub.Message{Body: m.Body, Properties: m.Properties.Clone()}
	for _, name := range []string{iothub.ContentType, iothub.ContentEncoding, iothub.MessageID, iothub.CorrelationID} {
		if p, ok := m.System.Lookup(name); ok {
			out.System.Set(p.Name, p.Value)
		}
	}
	out.Properties.Set("MessageType", "Alert")
	return f.client.SendOutput(ctx, output, out)
}
