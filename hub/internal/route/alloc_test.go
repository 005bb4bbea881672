//go:build !race

// The race detector makes sync.Pool drop what it is given, now and then.

package route_test

import (
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestMatchOfPropertiesDoesNotAllocate(t *testing.T) {
	table := route.NewTable(&route.Config{Routes: []route.NamedRoute{
		named(t, "1", `FROM /messages/modules/a/outputs/* WHERE level = 'high' AND as_number(n) > 5 AND starts_with($connectionDeviceId, 'edge') INTO $upstream`, 0, 0),
		named(t, "2", `FROM /messages/* WHERE $body.machine.temperature > 50 AND $body.name = 'pump' INTO BrokeredEndpoint("/modules/m/inputs/i")`, 0, 0),
	}}, "e")
	m := moduleMessage("a", "o")
	m.Properties.Set("level", "high")
	m.Properties.Set("n", "7")
	m.System.Set(iothub.ContentType, "application/json")
	m.System.Set(iothub.ContentEncoding, "utf-8")
	m.Body = []byte(`{"machine":{"temperature":51.5},"name":"pump"}`)
	hits := make([]route.Hit, 0, 2)
	if hits = table.Match(m, hits); len(hits) != 2 {
		t.Fatalf("hits %v", hits)
	}
	if n := testing.AllocsPerRun(100, func() { hits = table.Match(m, hits[:0]) }); n >= 1 {
		t.Errorf("%v allocations for each message", n)
	}
}
