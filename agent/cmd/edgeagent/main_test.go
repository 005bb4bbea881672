package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/quality"
)

func TestTelemetryIsShownBeforeItLeaves(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := quality.Open(dir).Add(quality.Scrape{At: at, Values: []quality.Value{{Name: "n", Labels: `{"a":"b"}`, Value: 2}}}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"telemetry", "show", dir}, nil, &out); err != nil {
		t.Fatal(err)
	}
	if want := `{"name":"n","labels":"{\"a\":\"b\"}","points":[{"at":"2026-01-01T00:00:00Z","value":2}]}` + "\n"; out.String() != want {
		t.Errorf("got %s, want %s", &out, want)
	}
	out.Reset()
	if err := run(t.Context(), []string{"telemetry", "show"}, []string{"StorageFolder=" + dir}, &out); err != nil || out.Len() != 0 {
		t.Errorf("a folder without telemetry: %v %s", err, &out)
	}
}

func TestOtherArgumentsAreRefused(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"telemetry"}, {"telemetry", "send"}, {"telemetry", "show", "a", "b"}} {
		if err := run(t.Context(), args, nil, nil); err == nil || !strings.HasPrefix(err.Error(), "usage:") {
			t.Errorf("%q: %v", args, err)
		}
	}
}
