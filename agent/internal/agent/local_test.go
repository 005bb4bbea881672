package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/agent/internal/agent"
	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
	"github.com/breakwater-iot/breakwater/agent/internal/settings"
)

// localAgent is an agent whose deployment is a file.
type localAgent struct {
	*process
	file     string
	settings settings.Settings
}

func (l *localAgent) write(text string) {
	l.t.Helper()
	if err := os.WriteFile(l.file, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// localFile is a file with the deployment of the tests, changed.
func localFile(change ...string) string {
	return fmt.Sprintf(`{"version":1,"deploymentConfig":%s}`, strings.NewReplacer(change...).Replace(manifest))
}

func newLocal(t *testing.T) *localAgent {
	t.Helper()
	dir := t.TempDir()
	l := &localAgent{file: filepath.Join(dir, "config.json"), process: &process{t: t, server: edgedtest.Serve(t, edgedtest.New("agent:1")),
		cloud: &cloud{Cloud: edgedtest.NewCloud("{}")}}}
	var err error
	l.settings, err = settings.Parse([]string{
		"IOTEDGE_MODULEID=$edgeAgent", "IOTEDGE_MODULEGENERATIONID=g", "IOTEDGE_IOTHUBHOSTNAME=hub", "IOTEDGE_DEVICEID=dev",
		"IOTEDGE_WORKLOADURI=" + l.server.URI, "IOTEDGE_MANAGEMENTURI=" + l.server.URI, "StorageFolder=" + dir, "MetricsEnabled=false",
		"ConfigSource=local", "LocalConfigPath=" + l.file,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *localAgent) start() {
	ctx, cancel := context.WithCancel(l.t.Context())
	l.t.Cleanup(cancel)
	l.stop, l.done = cancel, make(chan error, 1)
	connect := func(context.Context, string, *slog.Logger) (agent.Cloud, error) {
		l.t.Error("connects to the hub")
		return nil, context.Canceled
	}
	go func() {
		l.done <- agent.Run(ctx, l.settings, report.Build{}, connect, slog.New(slog.DiscardHandler))
	}()
}

// supervised checks that a module that ends is started again. It makes the agent look
// at everything anew, too.
func (l *localAgent) supervised(module string) {
	l.t.Helper()
	l.server.Daemon.Exit(module, 0)
	l.until("the restart of "+module, func() bool { return l.server.Daemon.State(module) == plan.Running })
}

func TestLocalDeployment(t *testing.T) {
	l := newLocal(t)
	l.write(localFile())
	l.start()
	l.until("the deployment", func() bool { return l.server.Daemon.State("m") == plan.Running })

	l.write(localFile(`"modules":{`, `"modules":{"second":{"type":"docker","status":"running","restartPolicy":"on-failure","settings":{"image":"s:1"}},`))
	l.supervised("m")
	l.until("the added module", func() bool { return l.server.Daemon.State("second") == plan.Running })

	// Neither a file that is none nor a deployment that is none changes anything.
	for _, bad := range []string{`{"version":2,`, localFile(`"schemaVersion":"1.1"`, `"schemaVersion":"7"`), localFile(`"image":"m:1"`, `"image":""`)} {
		l.write(bad)
		l.supervised("second")
	}
	l.stop()
	if err := <-l.done; err != nil {
		t.Fatal(err)
	}

	// Also an agent that begins with a bad file enforces what was good last.
	l.write(`{"version":3}`)
	l.start()
	l.until("the last good deployment", func() bool {
		return l.server.Daemon.State("m") == plan.Running && l.server.Daemon.State("second") == plan.Running
	})
	l.write(localFile(`"modules":{`, `"modules":{"third":{"type":"docker","status":"running","restartPolicy":"on-failure","settings":{"image":"s:1"}},`))
	l.supervised("m")
	l.until("the file that is good again", func() bool {
		return l.server.Daemon.State("third") == plan.Running && l.server.Daemon.State("second") == ""
	})
	l.stop()
	if err := <-l.done; err != nil {
		t.Fatal(err)
	}
}
