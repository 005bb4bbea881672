package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// A module that passes on its input "readings" to its output "alerts", takes its
// threshold from the twin and answers a method.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	connected := make(chan struct{}, 1)
	c, err := client.FromEnvironment(ctx, os.Getenv, client.Options{
		Retry:  true,
		Logger: slog.Default(),
		OnConnection: func(s client.Connection) {
			if s.State == client.Connected {
				select {
				case connected <- struct{}{}:
				default:
				}
			}
		},
	})
	if err != nil {
		slog.Error("client", "err", err)
		return
	}
	c.OnInput(func(ctx context.Context, input string, m *iothub.Message) error {
		if input != "readings" {
			return nil // acknowledge and forget
		}
		// The input is acknowledged when the hub has acknowledged the output.
		return c.SendOutput(ctx, "alerts", &iothub.Message{Body: m.Body, Properties: m.Properties})
	})
	c.OnMethod(func(_ context.Context, r iothub.MethodRequest) iothub.MethodResponse {
		return iothub.MethodResponse{Status: 200, Payload: json.RawMessage(`{"method":"` + r.Name + `"}`)}
	})
	c.OnDesired(func(_ context.Context, patch json.RawMessage, version int64) {
		fmt.Printf("desired version %d: %s\n", version, patch)
	})
	go func() {
		for {
			select {
			case <-connected: // read what changed meanwhile
				if twin, err := c.Twin(ctx); err == nil {
					fmt.Printf("desired: %s\n", twin.Desired)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	if err := c.Run(ctx); err != nil {
		slog.Error("client", "err", err)
	}
}
