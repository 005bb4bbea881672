package queue_test

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func properties(t *rapid.T, label string) iothub.Properties {
	names := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		iothub.MessageID, iothub.ConnectionDeviceID, iothub.EdgeMessageID, iothub.ReportedByModuleID, "",
	}))
	var p iothub.Properties
	for _, n := range rapid.SliceOfN(names, 0, 6).Draw(t, label) {
		if rapid.Bool().Draw(t, "null") {
			p.SetNull(n)
		} else {
			p.Set(n, rapid.String().Draw(t, "value"))
		}
	}
	return p
}

func TestMessageComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &iothub.Message{System: properties(t, "system"), Properties: properties(t, "custom")}
		m.Body = rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "body")
		if len(m.Body) == 0 {
			m.Body = nil
		}
		b := queue.AppendMessage(nil, m)
		if space := queue.MessageSpace(m); len(b) > space {
			t.Fatalf("%d bytes in a space of %d", len(b), space)
		}
		got, err := queue.DecodeMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(m, got) {
			t.Fatalf("%+v became %+v", m, got)
		}
	})
}

func TestBrokenMessagesAreRefused(t *testing.T) {
	m := msg("body")
	m.Properties.Set("a", "b")
	good := queue.AppendMessage(nil, m)
	for n := range good {
		if _, err := queue.DecodeMessage(good[:n]); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	for name, b := range map[string][]byte{
		"longer":             append(bytes.Clone(good), 0),
		"other version":      append([]byte{2}, good[1:]...),
		"unknown known name": {1, 0, 1, 0xff, 1, 1, 0},
		"huge body":          {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"huge count":         {1, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0},
	} {
		if _, err := queue.DecodeMessage(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzDecodeMessage(f *testing.F) {
	m := msg("body")
	m.Properties.SetNull("n")
	m.Properties.Set("a", "b")
	f.Add(queue.AppendMessage(nil, m))
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := queue.DecodeMessage(b)
		if err != nil {
			return
		}
		again, err := queue.DecodeMessage(queue.AppendMessage(nil, m))
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}

func FuzzDecodeChunk(f *testing.F) {
	f.Add(queue.ChunkOf(1700000000000, []byte("one"), []byte("two")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := queue.DecodeChunkLen(b); err == nil && n > len(b) {
			t.Fatalf("%d messages in %d bytes", n, len(b))
		}
	})
}

func FuzzReadFinished(f *testing.F) {
	f.Add([]byte{5, 2, 1, 1, 3, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = queue.FinishedRoundTrip(t, b)
	})
}

func FuzzRestoreState(f *testing.F) {
	full := []byte{2, 8, 5, 1, 1, 0, 3, 1, 'e', 9, 40, 2, 1, 1, 1}
	for _, change := range [][]byte{{'S', 0, 30, 1, 4, 2}, {'N', 0, 3, 'e'}, {'N', 7, 3, 'f'}, {'R', 0}, {'T', 9, 7}} {
		if err := queue.RestoreAndReplay(full, change); err != nil {
			f.Fatal(err) // a seed that shows nothing
		}
		f.Add(full, change)
		f.Add([]byte{2, 8, 5, 0, 0}, change)
	}
	f.Fuzz(func(_ *testing.T, state, change []byte) {
		_ = queue.RestoreAndReplay(state, change)
	})
}

// TestFinishedSet compares the set of finished offsets with a plain map.
func TestFinishedSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var set queue.Finished
		model := make(map[uint64]bool)
		for _, o := range rapid.SliceOfN(rapid.Uint64Range(0, 40), 0, 80).Draw(t, "offsets") {
			if set.Add(o) == model[o] {
				t.Fatalf("add %d", o)
			}
			model[o] = true
			if o%7 == 0 {
				set.AddRange(o, o+o%5)
				for r := range o % 5 {
					model[o+r] = true
				}
			}
			for o := range uint64(45) {
				if set.Has(o) != model[o] {
					t.Fatalf("has %d", o)
				}
			}
			if set.Count() != uint64(len(model)) {
				t.Fatalf("count %d, want %d", set.Count(), len(model))
			}
			set.CheckShape(t)
		}
	})
}
