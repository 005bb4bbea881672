package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/agent/internal/agent"
	"github.com/breakwater-iot/breakwater/agent/internal/edged"
	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
	"github.com/breakwater-iot/breakwater/agent/internal/settings"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloud is a hub that connects at once.
type cloud struct {
	*edgedtest.Cloud
	mu         sync.Mutex // guards what follows
	connection func(bool)
	refused    func()
	desired    func(json.RawMessage)
	method     func(context.Context, iothub.MethodRequest) iothub.MethodResponse
	product    string
}

func (c *cloud) Run(ctx context.Context) error {
	c.mu.Lock()
	f := c.connection
	c.mu.Unlock()
	f(true)
	<-ctx.Done()
	return nil
}

func set[T any](c *cloud, at *T, v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*at = v
}

func (c *cloud) OnConnection(f func(bool))         { set(c, &c.connection, f) }
func (c *cloud) OnRefused(f func())                { set(c, &c.refused, f) }
func (c *cloud) OnDesired(f func(json.RawMessage)) { set(c, &c.desired, f) }
func (c *cloud) OnMethod(f func(context.Context, iothub.MethodRequest) iothub.MethodResponse) {
	set(c, &c.method, f)
}

func (c *cloud) call(name, payload string) iothub.MethodResponse {
	c.mu.Lock()
	f := c.method
	c.mu.Unlock()
	return f(context.Background(), iothub.MethodRequest{Name: name, Payload: json.RawMessage(payload)})
}

const manifest = `{"$version":4,"schemaVersion":"1.1","runtime":{"type":"docker"},
	"systemModules":{"edgeAgent":{"type":"docker","settings":{"image":"engine/agent:1"}},
	"edgeHub":{"type":"docker","status":"running","settings":{"image":"hub:1"}}},
	"modules":{"m":{"type":"docker","status":"running","restartPolicy":"on-failure","settings":{"image":"m:1"}}}}`

// process is an agent that runs on a daemon behind a real socket.
type process struct {
	t      *testing.T
	server *edgedtest.Server
	cloud  *cloud
	stop   context.CancelFunc
	done   chan error
}

func start(t *testing.T) *process {
	t.Helper()
	p := &process{t: t, server: edgedtest.Serve(t, edgedtest.New("agent:1")), cloud: &cloud{Cloud: edgedtest.NewCloud(manifest)}, done: make(chan error, 1)}
	s, err := settings.Parse([]string{
		"IOTEDGE_MODULEID=$edgeAgent", "IOTEDGE_MODULEGENERATIONID=g", "IOTEDGE_IOTHUBHOSTNAME=hub", "IOTEDGE_DEVICEID=dev",
		"IOTEDGE_WORKLOADURI=" + p.server.URI, "IOTEDGE_MANAGEMENTURI=" + p.server.URI, "StorageFolder=" + t.TempDir(), "MetricsEnabled=false",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel
	connect := func(_ context.Context, product string, _ *slog.Logger) (agent.Cloud, error) {
		set(p.cloud, &p.cloud.product, product)
		return p.cloud, nil
	}
	go func() {
		p.done <- agent.Run(ctx, s, report.Build{Version: "1.2.3"}, connect, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(cancel)
	p.until("the deployment", func() bool { return p.status() == 200 && p.server.Daemon.State("m") == plan.Running })
	return p
}

func (p *process) until(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			p.t.Fatalf("%s does not come: reported %s", what, p.cloud.Reported())
		case err := <-p.done:
			p.t.Fatalf("%s does not come: the agent ended: %v", what, err)
		case <-tick.C:
		}
	}
}

func (p *process) status() int {
	var v struct{ LastDesiredStatus report.Status }
	_ = json.Unmarshal(p.cloud.Reported(), &v)
	return v.LastDesiredStatus.Code
}

func TestDeploysAnswersAndEndsInOrder(t *testing.T) {
	p := start(t)
	if got := p.cloud.product; !strings.HasPrefix(got, "EdgeAgent/1.2.3 (kernel=linux;") || !strings.Contains(got, "operating_system=debian _12_;") || !strings.HasSuffix(got, "site=a_b;)") {
		t.Errorf("product information %q", got)
	}
	p.server.Daemon.Exit("m", 0)
	p.until("the restart after an event", func() bool { return p.server.Daemon.State("m") == plan.Running })
	if r := p.cloud.call("ping", ""); r.Status != 200 {
		t.Error(r)
	}
	if r := p.cloud.call("RestartModule", `{"schemaVersion":"1.0","id":"edgeHub"}`); r.Status != 200 {
		t.Errorf("%s", r.Payload)
	}
	p.cloud.desired(json.RawMessage(`{"$version":5,"modules":{"m":null}}`))
	p.until("the removal", func() bool {
		return p.server.Daemon.State("m") == "" && !strings.Contains(string(p.cloud.Reported()), `"m:1"`)
	})
	p.stop()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	if p.status() != 406 || p.server.Daemon.State("edgeHub") != plan.Running {
		t.Errorf("status %d, hub %s", p.status(), p.server.Daemon.State("edgeHub"))
	}
}

// The daemon tells of no modules before it ends the agent.
func TestEndsInOrderWithTheDevice(t *testing.T) {
	p := start(t)
	p.server.Daemon.Silence()
	p.stop()
	p.server.Stop()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	reported := string(p.cloud.Reported())
	if p.status() != 406 || strings.Contains(reported, `"runtimeStatus":"running"`) || !strings.Contains(reported, `"runtimeStatus":"unknown"`) {
		t.Errorf("reported %s", reported)
	}
}

func TestEndsAtOnceWhenTheDaemonIsGone(t *testing.T) {
	p := start(t)
	p.server.Stop()
	select {
	case err := <-p.done:
		if !errors.Is(err, edged.ErrGone) {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("goes on with a dead socket")
	}
	if p.status() == 406 {
		t.Error("reported as a clean end")
	}
}

func TestRefusalByTheHubIsMadeKnownToTheDaemon(t *testing.T) {
	p := start(t)
	asked := make(chan struct{}, 16)
	p.server.Daemon.FailWith(func(call string) error {
		if call == "identities" {
			asked <- struct{}{}
		}
		return nil
	})
	p.cloud.mu.Lock()
	refused := p.cloud.refused
	p.cloud.mu.Unlock()
	for range 5 {
		refused()
	}
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("the daemon is not asked")
	}
	p.stop()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	if len(asked) != 0 {
		t.Error("asked again and again")
	}
}

func TestFailingConnectEndsTheAgent(t *testing.T) {
	server := edgedtest.Serve(t, edgedtest.New("agent:1"))
	s, err := settings.Parse([]string{
		"IOTEDGE_MODULEID=$edgeAgent", "IOTEDGE_MODULEGENERATIONID=g", "IOTEDGE_IOTHUBHOSTNAME=hub", "IOTEDGE_DEVICEID=dev",
		"IOTEDGE_WORKLOADURI=" + server.URI, "IOTEDGE_MANAGEMENTURI=" + server.URI, "StorageFolder=" + t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("no trust bundle")
	err = agent.Run(t.Context(), s, report.Build{}, func(context.Context, string, *slog.Logger) (agent.Cloud, error) { return nil, boom }, slog.New(slog.DiscardHandler))
	if !errors.Is(err, boom) {
		t.Errorf("%v", err)
	}
}
