package twin_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// in runs f in virtual time on a mirror that runs.
func in(t *testing.T, cloud *edgedtest.Cloud, f func(m *twin.Mirror)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { run(t, cloud, f) })
}

func run(t *testing.T, source twin.Source, f func(m *twin.Mirror)) {
	m := twin.New(source, twin.Options{Refresh: time.Hour, Timeout: 30 * time.Second, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	synctest.Wait()
	f(m)
	cancel()
	<-done
}

func expectDesired(t *testing.T, m *twin.Mirror, want string) {
	t.Helper()
	synctest.Wait()
	got, _ := m.Desired()
	if string(got) != want {
		t.Fatalf("desired %s, want %s", got, want)
	}
}

func TestNextVersionMergesOthersPull(t *testing.T) {
	cloud := edgedtest.NewCloud(`{"$version":4,"a":{"b":1,"c":2}}`)
	in(t, cloud, func(m *twin.Mirror) {
		expectDesired(t, m, "")
		m.HandleConnection(true)
		expectDesired(t, m, `{"$version":4,"a":{"b":1,"c":2}}`)
		<-m.Changed()
		m.HandleDesired(json.RawMessage(`{"$version":5,"a":{"b":null,"d":3}}`))
		expectDesired(t, m, `{"$version":5,"a":{"c":2,"d":3}}`)
		<-m.Changed()
		if n := cloud.Pulls(); n != 1 {
			t.Errorf("%d pulls", n)
		}
		cloud.SetDesired(`{"$version":9}`)
		m.HandleDesired(json.RawMessage(`{"$version":9,"x":1}`)) // 6 to 8 were missed
		expectDesired(t, m, `{"$version":9}`)
		m.HandleDesired(json.RawMessage(`{"$version":9}`)) // not the next one
		m.HandleDesired(json.RawMessage(`nonsense`))
		synctest.Wait()
		if n := cloud.Pulls(); n != 3 && n != 4 {
			t.Errorf("%d pulls", n)
		}
	})
}

func TestReconnectsPullOncePerHalfMinute(t *testing.T) {
	cloud := edgedtest.NewCloud(`{"$version":1}`)
	in(t, cloud, func(m *twin.Mirror) {
		for range 20 {
			m.HandleConnection(true)
			time.Sleep(time.Second)
			m.HandleConnection(false)
			time.Sleep(time.Second)
		}
		m.HandleConnection(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := cloud.Pulls(); n < 2 || n > 4 {
			t.Errorf("%d pulls in 100 s with 21 connections", n)
		}
	})
}

func TestRefreshAndRetry(t *testing.T) {
	cloud := edgedtest.NewCloud(`{"$version":1}`)
	in(t, cloud, func(m *twin.Mirror) {
		cloud.SetDown(true)
		m.HandleConnection(true)
		time.Sleep(3 * time.Second)
		cloud.SetDown(false)
		time.Sleep(4 * time.Second)
		expectDesired(t, m, `{"$version":1}`)
		cloud.SetDesired(`{"$version":2}`)
		time.Sleep(time.Hour)
		expectDesired(t, m, `{"$version":2}`)
	})
}

func TestReportSendsDifferences(t *testing.T) {
	cloud := edgedtest.NewCloud(`{"$version":1}`)
	in(t, cloud, func(m *twin.Mirror) {
		report := func(doc string, want ...string) {
			t.Helper()
			if err := m.Report(context.Background(), json.RawMessage(doc)); err != nil {
				t.Fatal(err)
			}
			got := cloud.Patches()
			if len(got) != len(want) {
				t.Fatalf("patches %s, want %s", got, want)
			}
			for i := range got {
				if string(got[i]) != want[i] {
					t.Errorf("patch %s, want %s", got[i], want[i])
				}
			}
		}
		report(`{"a":1}`) // no pull yet: no baseline
		m.HandleConnection(true)
		synctest.Wait()
		report(`{"a":1,"b":{"c":[1],"d":2}}`, `{"a":1,"b":{"c":[1],"d":2}}`)
		report(`{"a":1,"b":{"c":[1],"d":2}}`)
		report(`{"b":{"c":[1,2]}}`, `{"a":null,"b":{"c":[1,2],"d":null}}`)
		if err := m.ReportPart(context.Background(), json.RawMessage(`{"e":5}`)); err != nil {
			t.Fatal(err)
		}
		if p := cloud.Patches(); len(p) != 1 || string(p[0]) != `{"e":5}` {
			t.Errorf("patches %s", p)
		}
		cloud.SetDown(true)
		if err := m.Report(context.Background(), json.RawMessage(`{"f":1}`)); err == nil {
			t.Error("failure is not told")
		}
		cloud.SetDown(false)
		report(`{"f":1}`, `{"b":null,"e":null,"f":1}`) // the baseline did not move
		m.HandleConnection(false)
		report(`{"g":1}`)
	})
}

// odd is a cloud whose reported section makes no sense.
type odd struct {
	*edgedtest.Cloud
}

func (o odd) Twin(context.Context) (iothub.TwinProperties, error) {
	return iothub.TwinProperties{Desired: json.RawMessage(`{"$version":1}`), Reported: json.RawMessage(`"text"`)}, nil
}

func TestUnreadableBaselineIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := edgedtest.NewCloud(`{}`)
		run(t, odd{cloud}, func(m *twin.Mirror) {
			m.HandleConnection(true)
			synctest.Wait()
			if err := m.Report(context.Background(), json.RawMessage(`{"a":1}`)); err != nil {
				t.Fatal(err)
			}
			p := cloud.Patches()
			if len(p) != 2 || string(p[0]) != `{"a":null}` || string(p[1]) != `{"a":1}` {
				t.Errorf("patches %s", p)
			}
		})
	})
}

// slow is a cloud whose answer takes a second.
type slow struct{ *edgedtest.Cloud }

func (s slow) Twin(ctx context.Context) (iothub.TwinProperties, error) {
	t, err := s.Cloud.Twin(ctx)
	time.Sleep(time.Second)
	return t, err
}

func TestChangeDuringPullIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := edgedtest.NewCloud(`{"$version":1,"a":1}`)
		run(t, slow{cloud}, func(m *twin.Mirror) {
			m.HandleConnection(true)
			time.Sleep(2 * time.Second)
			m.HandleDesired(json.RawMessage(`{"$version":7}`)) // pull again; the answer is old when it comes
			time.Sleep(500 * time.Millisecond)
			m.HandleDesired(json.RawMessage(`{"$version":2,"a":2}`))
			cloud.SetDesired(`{"$version":3,"a":3}`)
			time.Sleep(3 * time.Second)
			expectDesired(t, m, `{"$version":3,"a":3}`)
		})
	})
}
