package amqp

import (
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

func TestSelectors(t *testing.T) {
	offset, sequence, at := head.EventOffset, head.EventSequence, head.EventTime
	for text, want := range map[string]head.EventStart{
		"amqp.annotation.x-opt-offset > '-1'":                   {By: offset, Value: -1},
		"amqp.annotation.x-opt-offset >= '-1'":                  {By: offset, Value: -1, Inclusive: true},
		"amqp.annotation.x-opt-offset > '12345'":                {By: offset, Value: 12345},
		"amqp.annotation.x-opt-offset >= '12345'":               {By: offset, Value: 12345, Inclusive: true},
		"amqp.annotation.x-opt-offset > '@latest'":              {Latest: true},
		"amqp.annotation.x-opt-offset >= '@latest'":             {Latest: true},
		"amqp.annotation.x-opt-offset > @latest":                {Latest: true},
		"amqp.annotation.x-opt-sequence-number > '7'":           {By: sequence, Value: 7},
		"amqp.annotation.x-opt-sequence-number >= 7":            {By: sequence, Value: 7, Inclusive: true},
		"amqp.annotation.x-opt-enqueued-time > '1654109018051'": {By: at, Value: 1654109018051},
		// The extension of the Azure CLI.
		"amqp.annotation.x-opt-enqueuedtimeutc > 1654109018051.7": {By: at, Value: 1654109018051},
		"amqp.annotation.x-opt-enqueuedtimeutc > 1.6541e+12":      {By: at, Value: 1654100000000},
		"  AMQP.Annotation.X-Opt-Offset>=5 ":                      {By: offset, Value: 5, Inclusive: true},
	} {
		if got, ok := parseSelector(text); !ok || got != want {
			t.Errorf("%s: %+v, %v", text, got, ok)
		}
	}
	for _, text := range []string{
		"", "amqp.annotation.", "x-opt-offset > '1'", "amqp.annotation.x-opt-offset < '1'", "amqp.annotation.x-opt-offset = '1'",
		"amqp.annotation.x-opt-offset > ''", "amqp.annotation.x-opt-offset > 'a'", "amqp.annotation.x-opt-offset > '1.5'",
		"amqp.annotation.x-opt-offset > '1", "amqp.annotation.x-opt-partition-key > '1'", "amqp.annotation.x-opt-offset >",
		"amqp.annotation.x-opt-sequence-number > '@latest'", "amqp.annotation.x-opt-offset > '99999999999999999999'",
		"amqp.annotation.x-opt-offset > '1' OR 1=1", "amqp.annotation.x-opt-enqueued-time > 'NaN'", "amqp.annotation.x-opt-enqueued-time > 'inf'",
		"amqp.annotation.x-opt-enqueued-time > 1e300", "amqp.annotation.x-opt-enqueued-time > '0x1p4'", "amqp.annotation.x-opt-enqueued-time > '2026-01-01'",
	} {
		if got, ok := parseSelector(text); ok {
			t.Errorf("%q was taken as %+v", text, got)
		}
	}
}

func TestSelectorAmongFilters(t *testing.T) {
	other := wire.Pair{Key: wire.Symbol("apache.org:no-local-filter:list"), Value: wire.Described(wire.Symbol("x"), wire.List())}
	text := wire.String("t")
	byName := wire.Pair{Key: wire.Symbol(filterSelector), Value: wire.Described(wire.Symbol(filterSelector), text)}
	byCode := wire.Pair{Key: wire.Symbol("selector"), Value: wire.Described(wire.Ulong(filterSelectorCode), text)}
	bare := wire.Pair{Key: wire.Symbol(filterSelector), Value: text}
	for name, c := range map[string]struct {
		filter  wire.Map
		text    string
		taken   int
		refused bool
	}{
		"none":       {},
		"another":    {filter: wire.Map{other}},
		"by name":    {filter: wire.Map{byName}, text: "t", taken: 1},
		"by code":    {filter: wire.Map{other, byCode}, text: "t", taken: 1},
		"bare":       {filter: wire.Map{bare}, text: "t", taken: 1},
		"two":        {filter: wire.Map{byName, byCode}, refused: true},
		"no text":    {filter: wire.Map{{Key: wire.Symbol(filterSelector), Value: wire.Long(1)}}, refused: true},
		"empty text": {filter: wire.Map{{Key: wire.Symbol(filterSelector), Value: wire.String("")}}, refused: true},
	} {
		text, accepted, refusal := selector(&wire.Source{Filter: c.filter})
		if (refusal != nil) != c.refused || text != c.text || len(accepted) != c.taken {
			t.Errorf("%s: %q, %v, %v", name, text, accepted, refusal)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	f.Add("amqp.annotation.x-opt-offset >= '@latest'")
	f.Add("amqp.annotation.x-opt-sequence-number > '7'")
	f.Add("amqp.annotation.x-opt-enqueuedtimeutc > 1.6541e+12")
	f.Fuzz(func(t *testing.T, s string) {
		start, ok := parseSelector(s)
		if !ok && start.Latest {
			t.Errorf("%q: refused and latest", s)
		}
		if ok && !strings.Contains(s, ">") {
			t.Errorf("%q was taken", s)
		}
		if again, ok2 := parseSelector(" " + s + "\n"); ok != ok2 || ok && again != start {
			t.Errorf("%q: %+v, with blanks %+v", s, start, again)
		}
	})
}
