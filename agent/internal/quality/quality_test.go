package quality_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/agent/internal/quality"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const exposition = `# HELP edgehub_messages_received_total x
# TYPE edgehub_messages_received_total counter
edgehub_messages_received_total{edge_device="secret-dev",id="secret-dev/secret-mod",instance_number="1",iothub="secret-hub",ms_telemetry="True",priority="1",route_output="o"} 5
edgehub_messages_received_total{edge_device="secret-dev",id="secret-dev/secret-mod",instance_number="1",iothub="secret-hub",ms_telemetry="True",priority="2",route_output="o"} 7
edgehub_message_size_bytes{id="leaf",ms_telemetry="True",quantile="0.9",x="1"} 10
edgehub_message_size_bytes{id="leaf",ms_telemetry="True",quantile="0.9",x="2"} 20
edgehub_message_size_bytes{id="leaf",ms_telemetry="True",quantile="0.5"} 1
edgeAgent_module_start_total{module_name="secret-mod",module_version="1",ms_telemetry="True"} 2
edgeAgent_module_start_total{module_name="$edgeHub",module_version="",ms_telemetry="True"} 3
edgeAgent_created_pids_total{module_name="secret-mod",ms_telemetry="False"} 9
edgeAgent_used_cpu_percent{module_name="host",ms_telemetry="True",quantile="0.9"} NaN
edgehub_messages_sent_total{from="secret-dev/a",to="upstream",from_route_output="o\"1",to_route_input="i",ms_telemetry="True"} 4 1700000000000
process_cpu_seconds_total 1
`

func selected(t *testing.T) []quality.Value {
	t.Helper()
	samples, err := quality.Parse(exposition)
	if err != nil {
		t.Fatal(err)
	}
	return quality.Select(samples)
}

func TestOnlyMarkedAndNamelessFiguresAreKept(t *testing.T) {
	values := selected(t)
	b, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "secret") || strings.Contains(string(b), "ms_telemetry") {
		t.Errorf("%s", b)
	}
	got := map[string]float64{}
	for _, v := range values {
		got[v.Name+" "+v.Labels] = v.Value
	}
	for key, want := range map[string]float64{
		`edgehub_message_size_bytes {"id":"device","quantile":"0.9"}`:                     15,
		`edgeAgent_module_start_total {"module_name":"$edgeHub","module_version":""}`:     3,
		`edgehub_messages_received_total {"id":"device/` + sum + `","route_output":"o"}`:  12,
		`edgeAgent_module_start_total {"module_name":"` + sum + `","module_version":"1"}`: 2,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", key, v, ok, want)
		}
	}
	if len(values) != 5 {
		t.Errorf("%d values: %s", len(values), b)
	}
}

// sum is the SHA-256 of "secret-mod".
const sum = "xlFZhe8tke/knW7uTdEKKDJk5cgJtYQqHipIlVOs0eA="

func TestRepeatedValuesAreLeftOut(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var scrapes []quality.Scrape
	for i, v := range []float64{1, 1, 2, 2, 1} {
		scrapes = append(scrapes, quality.Scrape{At: at.Add(time.Duration(i) * time.Hour), Values: []quality.Value{{Name: "b", Labels: "{}", Value: v}, {Name: "a", Labels: "{}", Value: 7}}})
	}
	list := quality.Condense(scrapes)
	if len(list) != 2 || list[0].Name != "a" || len(list[0].Points) != 1 || len(list[1].Points) != 3 || list[1].Points[1].At != at.Add(2*time.Hour) {
		t.Errorf("%+v", list)
	}
}

// decode reads a body as the service does.
func decode(t *testing.T, b []byte) []quality.Series {
	t.Helper()
	text := func() string {
		n := binary.LittleEndian.Uint32(b)
		s := string(b[4 : 4+n])
		b = b[4+n:]
		return s
	}
	var list []quality.Series
	for len(b) > 0 {
		s := quality.Series{Name: text(), Labels: text()}
		n := binary.LittleEndian.Uint32(b)
		b = b[4:]
		for range n {
			ticks := int64(binary.LittleEndian.Uint64(b))
			at := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).Unix() + ticks/10_000_000
			s.Points = append(s.Points, quality.Point{At: time.Unix(at, 0).UTC(), Value: math.Float64frombits(binary.LittleEndian.Uint64(b[8:]))})
			b = b[16:]
		}
		list = append(list, s)
	}
	return list
}

func TestEncode(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	long := quality.Series{Name: "long", Labels: "{}"}
	for i := range 40_000 {
		long.Points = append(long.Points, quality.Point{At: at.Add(time.Duration(i) * time.Second), Value: float64(i)})
	}
	list := []quality.Series{{Name: "n", Labels: `{"a":"b"}`, Points: []quality.Point{{At: at, Value: 1.5}}}, long}
	points := map[string]int{}
	bodies := quality.Encode(list)
	for _, b := range bodies {
		if len(b) > quality.MaxMessage {
			t.Errorf("%d bytes", len(b))
		}
		for _, s := range decode(t, b) {
			for _, p := range s.Points {
				if s.Name == "long" && (p.Value != float64(points["long"]) || !p.At.Equal(long.Points[points["long"]].At)) {
					t.Fatalf("%+v at %d", p, points["long"])
				}
				points[s.Name]++
			}
		}
	}
	if points["n"] != 1 || points["long"] != 40_000 || len(bodies) != 3 {
		t.Errorf("%v in %d bodies", points, len(bodies))
	}
	// 2026-01-01 in ticks of .NET.
	if got := binary.LittleEndian.Uint64(bodies[0][4+1+4+9+4:]); got != 639028224000000000 {
		t.Errorf("ticks %d", got)
	}
}

// pages answers for a target.
type pages func() (int, string)

func (p pages) RoundTrip(*http.Request) (*http.Response, error) {
	code, text := p()
	return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader(text)), Header: http.Header{}}, nil
}

type device struct {
	n     int
	sent  []*iothub.Message
	times []time.Duration
	err   error
	begin time.Time
}

func running(t *testing.T, err error, f func(d *device)) {
	t.Helper()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := &device{begin: time.Now(), err: err}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			quality.Run(ctx, quality.Options{
				Scrape: time.Hour, Upload: 24 * time.Hour, MaxAge: 7 * 24 * time.Hour, Targets: []string{"http://edgeHub:9600/metrics", "http://edgeAgent:9600/metrics"},
				Client: &http.Client{Transport: pages(func() (int, string) {
					d.n++
					return 200, fmt.Sprintf("m{ms_telemetry=\"True\",target=\"%d\"} %d\n", d.n%2, d.n)
				})},
				Store: quality.Open(folder), Log: slog.New(slog.DiscardHandler),
				Send: func(_ context.Context, m *iothub.Message) error {
					d.times = append(d.times, time.Since(d.begin))
					if d.err == nil {
						d.sent = append(d.sent, m)
					}
					return d.err
				},
			})
		}()
		f(d)
		cancel()
		<-done
	})
}

func TestCollectedHourlyAndSentDaily(t *testing.T) {
	running(t, nil, func(d *device) {
		time.Sleep(73 * time.Hour)
		synctest.Wait()
		if d.n != 146 {
			t.Errorf("%d pages read", d.n)
		}
		if n := len(d.sent); n < 3 || n > 4 {
			t.Fatalf("%d messages", n)
		}
		last := d.sent[len(d.sent)-1]
		if last.System.Get(iothub.ContentType) != quality.ContentType {
			t.Error("content type")
		}
		list := decode(t, last.Body)
		if len(list) != 2 || len(list[0].Points) != 24 {
			t.Errorf("%d series of %d points", len(list), len(list[0].Points))
		}
		if gap := d.times[2] - d.times[1]; gap != 24*time.Hour {
			t.Errorf("sent after %v", gap)
		}
	})
}

func TestFailedUploadIsTriedTwentyTimesAndGivenUp(t *testing.T) {
	running(t, errors.New("away"), func(d *device) {
		time.Sleep(60 * 24 * time.Hour)
		synctest.Wait()
		if len(d.times) < 21 {
			t.Fatalf("%d tries", len(d.times))
		}
		for i, want := range []time.Duration{5 * time.Minute, 10 * time.Minute, 20 * time.Minute} {
			if got := d.times[i+1] - d.times[i]; got != want {
				t.Errorf("pause %d is %v, want %v", i, got, want)
			}
		}
		if got := d.times[19] - d.times[18]; got != 12*time.Hour {
			t.Errorf("last pause %v", got)
		}
		if got := d.times[20] - d.times[19]; got != 24*time.Hour {
			t.Errorf("after giving up: %v", got)
		}
	})
}

func TestStoreSkipsWhatWasCutOffAndWhatIsOld(t *testing.T) {
	dir := t.TempDir()
	s := quality.Open(dir)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 3 {
		if err := s.Add(quality.Scrape{At: at.Add(time.Duration(i) * time.Hour), Values: []quality.Value{{Name: "n"}}}); err != nil {
			t.Fatal(err)
		}
	}
	var shown bytes.Buffer
	if err := s.Show(&shown); err != nil || shown.String() != `{"name":"n","labels":"","points":[{"at":"2026-01-01T00:00:00Z","value":0}]}`+"\n" {
		t.Errorf("%v %s", err, &shown)
	}
	path := filepath.Join(dir, "quality.jsonl")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := s.All(at.Add(time.Minute)); err != nil || len(list) != 1 {
		t.Errorf("%v %v", list, err)
	}
	if err := errors.Join(s.Clear(), s.Clear()); err != nil {
		t.Error(err)
	}
	if list, err := s.All(at); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(exposition)
	f.Add("a{b=\"\\\\\\n\\\"\"} 1")
	f.Add("a{")
	f.Fuzz(func(t *testing.T, text string) {
		samples, err := quality.Parse(text)
		if err != nil {
			return
		}
		for _, v := range quality.Select(samples) {
			if !json.Valid([]byte(v.Labels)) || bytes.Contains([]byte(v.Labels), []byte(`"iothub"`)) {
				t.Errorf("%+v", v)
			}
		}
	})
}
