package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

func (r *Rig) deviceDir() string { return filepath.Join(r.Dir, "device") }

func (r *Rig) managementSocket() string { return filepath.Join(r.deviceDir(), "mgmt.sock") }

func (r *Rig) workloadSocket() string { return filepath.Join(r.deviceDir(), "workload.sock") }

var deviceConfig = template.Must(template.New("config.toml").Parse(`hostname = "{{.Hostname}}"
homedir = "{{.Home}}"
trust_bundle_cert = "file://{{.TrustBundle}}"

{{.Provisioning}}
[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "on-create"

[agent.config]
image = "{{.AgentImage}}"

[agent.config.createOptions.HostConfig]
Binds = ["edgeagent-data:/data"{{with .Local}}, "{{.}}:/local:ro"{{end}}]
ExtraHosts = ["{{.HubName}}:{{.HubAddr}}"]

[agent.env]
StorageFolder = "/data"
RuntimeLogLevel = "debug"
CoolOffTimeUnitInSeconds = "1"
{{if .Local}}ConfigSource = "local"
LocalConfigPath = "/local/deployment.json"
{{end}}
[connect]
workload_uri = "unix://{{.Workload}}"
management_uri = "unix://{{.Management}}"

[listen]
workload_uri = "unix://{{.Workload}}"
management_uri = "unix://{{.Management}}"
`))

// WriteDeviceConfig writes the configuration file of edged; provisioning are the
// tables that say which device it is.
func (r *Rig) WriteDeviceConfig(provisioning string) error {
	if err := os.MkdirAll(r.deviceDir(), 0o755); err != nil {
		return fmt.Errorf("configuration of edged: %w", err)
	}
	var text strings.Builder
	if err := deviceConfig.Execute(&text, map[string]string{
		"Hostname":     DeviceName,
		"Home":         filepath.Join(r.deviceDir(), "home"),
		"TrustBundle":  r.CloudRoot(),
		"Provisioning": provisioning,
		"AgentImage":   registryPrefix + "/edgeagent:" + imageTag,
		"HubName":      HubName,
		"HubAddr":      cloudAddr,
		"Local":        r.Local,
		"Workload":     r.workloadSocket(),
		"Management":   r.managementSocket(),
	}); err != nil {
		return fmt.Errorf("configuration of edged: %w", err)
	}
	text.WriteString(r.DeviceConfig)
	if err := os.WriteFile(r.configFile(), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("configuration of edged: %w", err)
	}
	return nil
}

func (r *Rig) configFile() string { return filepath.Join(r.deviceDir(), "config.toml") }

// StartDevice starts edged.
func (r *Rig) StartDevice() error {
	r.say("starting the device: edged as %s", DeviceName)
	p, err := r.start(spec{name: "edged", host: Device, path: r.bin("edged"), args: []string{"--config", r.configFile()}})
	if err != nil {
		return err
	}
	r.edged = p
	r.memory.add("edged", p.PID())
	return nil
}

// StopDevice ends edged in an orderly way: it stops the modules first.
func (r *Rig) StopDevice() error { return r.edged.Stop(45 * time.Second) }

// Edged is the running daemon.
func (r *Rig) Edged() *Process { return r.edged }

// EdgeCtl runs edgectl on the device.
func (r *Rig) EdgeCtl(ctx context.Context, args ...string) (string, error) {
	return r.command(ctx, Device, nil, r.bin("edgectl"),
		append([]string{"--host", "unix://" + r.managementSocket()}, args...)...)
}

// KillModule kills a module's process, as a crash would.
func (r *Rig) KillModule(ctx context.Context, name string) error {
	tasks, err := Tasks(ctx)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if t.Name == name {
			if err := syscall.Kill(t.PID, syscall.SIGKILL); err != nil {
				return fmt.Errorf("kill %s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("kill %s: it does not run", name)
}

// PIDs returns the process id of every running module.
func (r *Rig) PIDs(ctx context.Context) (map[string]int, error) {
	tasks, err := Tasks(ctx)
	if err != nil {
		return nil, err
	}
	pids := make(map[string]int, len(tasks))
	for _, t := range tasks {
		pids[t.Name] = t.PID
	}
	return pids, nil
}

// TrustBundle fetches the certificates that clients of the device must trust, over
// the REST form of the workload API, and writes them to a file.
func (r *Rig) TrustBundle(ctx context.Context) (string, error) {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", r.workloadSocket())
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://workload/trust-bundle?api-version=2022-08-03", nil)
	if err != nil {
		return "", fmt.Errorf("trust bundle: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("trust bundle: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("trust bundle: %w", err)
	}
	var doc struct {
		Certificate string `json:"certificate"`
	}
	if err := json.Unmarshal(body, &doc); err != nil || resp.StatusCode != http.StatusOK || doc.Certificate == "" {
		return "", fmt.Errorf("trust bundle: status %s, body %q", resp.Status, body)
	}
	file := filepath.Join(r.Dir, "trust-bundle.pem")
	if err := os.WriteFile(file, []byte(doc.Certificate), 0o600); err != nil {
		return "", fmt.Errorf("trust bundle: %w", err)
	}
	return file, nil
}

// HubMetrics reads edgeHub's metrics: the sum over all series of a name that have
// the labels, which are given as `name="value"`.
func (r *Rig) HubMetrics(ctx context.Context) (Metrics, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: Leaf.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+deviceToLeaf+":9600/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: status %s", resp.Status)
	}
	return readMetrics(resp.Body)
}

// Metrics are the series of a Prometheus page: name and labels to value.
type Metrics map[string]float64

func readMetrics(body io.Reader) (Metrics, error) {
	m := make(Metrics)
	s := bufio.NewScanner(body)
	for s.Scan() {
		line := s.Text()
		series, value, ok := cutLast(line, " ")
		if strings.HasPrefix(line, "#") || !ok {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: line %q: %w", line, err)
		}
		m[series] = v
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return m, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Sum adds up the series of a name that have all of the labels.
func (m Metrics) Sum(name string, labels ...string) float64 {
	var sum float64
series:
	for s, v := range m {
		if s != name && !strings.HasPrefix(s, name+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(s, l) {
				continue series
			}
		}
		sum += v
	}
	return sum
}

// ModuleSocket is the workload socket of a module, as the machine sees it.
func (r *Rig) ModuleSocket(module string) string {
	return filepath.Join(r.deviceDir(), "home", "mnt", module+".sock")
}
