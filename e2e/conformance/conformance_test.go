//go:build e2e

package conformance_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/conformance"
)

// selection is what `make test` runs of `make conformance`: each kind of client, each
// head and each hub at least once.
var selection = []string{
	"Node device mqtt edgehub", "Node module amqp edgehub", "Node service https", "Node service amqp iothub", "Node event-hubs amqp iothub",
	"Paho mqtt iothub", "Qpid Proton amqp edgehub", "uAMQP amqp iothub", "mosquitto mqtt edgehub", "go-amqp amqp iothub",
	"raw bytes", "mutated streams edgehub", "hostile peers iothub",
}

func TestClientsThatAreNotOurs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	err := conformance.Run(ctx, conformance.Options{
		Bin: "../../bin", Scripts: ".", Dir: t.TempDir(), Seed: 42, Only: selection, Out: os.Stdout, Say: t.Logf,
	})
	if err != nil {
		t.Error(err)
	}
}
