package route_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func benchMessage(b *testing.B) *iothub.Message {
	m := moduleMessage("sensor", "temperature")
	m.System.Set(iothub.MessageID, "0f8fad5b-d9cb-469f-a165-70867728950e")
	m.System.Set(iothub.ContentType, "application/json")
	m.System.Set(iothub.ContentEncoding, "utf-8")
	m.Properties.Set("sequenceNumber", "17")
	m.Properties.Set("level", "high")
	m.Body = []byte(`{"machine":{"temperature":21.4,"pressure":1.02},"ambient":{"temperature":20.9,"humidity":24},"timeCreated":"2024-05-01T10:00:00Z"}`)
	return m
}

// BenchmarkMatch1, 10 and 100 match a message against that many routes, one of
// which gives a hit. "sources" differ in their source, as routes between modules
// do; "same" have one source, so that every condition is evaluated.
func BenchmarkMatch1(b *testing.B)   { benchmarkMatch(b, 1) }
func BenchmarkMatch10(b *testing.B)  { benchmarkMatch(b, 10) }
func BenchmarkMatch100(b *testing.B) { benchmarkMatch(b, 100) }

func benchmarkMatch(b *testing.B, routes int) {
	for _, c := range []struct{ name, source, condition, hit string }{
		{"property/sources", "/messages/modules/m%d/*", "level = 'high'", "/messages/modules/sensor/*"},
		{"property/same", "/messages/*", "level = 'high%d'", "/messages/modules/sensor/*"},
		{"body/sources", "/messages/modules/m%d/*", "$body.machine.temperature > 20", "/messages/modules/sensor/*"},
		{"body/same", "/messages/*", "$body.machine.temperature > 3%d", "/messages/modules/sensor/*"},
	} {
		b.Run(c.name, func(b *testing.B) {
			cfg := &route.Config{}
			for i := range routes - 1 {
				text := "FROM " + c.source + " WHERE " + c.condition + ` INTO BrokeredEndpoint("/modules/m/inputs/i%d")`
				cfg.Routes = append(cfg.Routes, named(b, strconv.Itoa(i), strings.ReplaceAll(text, "%d", strconv.Itoa(i)), route.DefaultPriority, 0))
			}
			condition := map[bool]string{true: "$body.machine.temperature > 20", false: "level = 'high'"}[c.name[0] == 'b']
			cfg.Routes = append(cfg.Routes, named(b, "hit", "FROM "+c.hit+" WHERE "+condition+" INTO $upstream", 0, 0))
			table := route.NewTable(cfg, "edge1")
			m := benchMessage(b)
			hits := make([]route.Hit, 0, routes)
			b.ReportAllocs()
			for b.Loop() {
				hits = table.Match(m, hits[:0])
			}
			if len(hits) != 1 || hits[0].Endpoint != "iothub" {
				b.Fatalf("hits %v", hits)
			}
		})
	}
}
