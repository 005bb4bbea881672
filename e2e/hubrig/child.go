package hubrig

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// Child is an edge device below the rig's. It reaches the hub of that one and not
// the cloud.
type Child struct {
	r        *Rig
	id       string
	net      *network
	keys     map[string][]byte // of modules
	key      []byte            // of the device
	workload *workload
}

// AddChild registers an edge device below the rig's and makes the world of its hub.
// The rig's Close removes it.
func (r *Rig) AddChild(ctx context.Context, id string, routes map[string]string) (*Child, error) {
	c := &Child{r: r, id: id, keys: make(map[string][]byte)}
	r.children = append(r.children, c)
	var err error
	if c.key, err = r.CreateDevice(ctx, id, "--edge", "--parent", EdgeID); err != nil {
		return nil, err
	}
	if err := r.furnish(ctx, id, nil, c.keys, routes); err != nil {
		return nil, err
	}
	if c.net, err = newChildNetwork(ctx, r.net); err != nil {
		return nil, fmt.Errorf("network of %s: %w", id, err)
	}
	socket := filepath.Join(r.o.Dir, id+".sock")
	if c.workload, err = serveWorkload(socket, c.keys, r.workload.root(), r.o.Say); err != nil {
		return nil, fmt.Errorf("workload API of %s: %w", id, err)
	}
	return c, nil
}

func (c *Child) close() error {
	if c.workload != nil {
		c.workload.stop()
	}
	if c.net != nil {
		return c.net.remove()
	}
	return nil
}

// CreateDevice registers a device, with more flags of `iothub device create`, and
// returns its key.
func (r *Rig) CreateDevice(ctx context.Context, id string, flags ...string) ([]byte, error) {
	out, err := r.IoTHub(ctx, append([]string{"device", "create", id}, flags...)...)
	if err != nil {
		return nil, err
	}
	_, text, _ := strings.Cut(out, ";SharedAccessKey=")
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", id, err)
	}
	return key, nil
}

// StartHub starts the child's edgehub on a storage folder.
func (c *Child) StartHub(storage string, env ...string) (*Process, error) {
	return c.r.startHub(c.net, c.id, c.workload, c.HubLog(), storage, append([]string{"IOTEDGE_GATEWAYHOSTNAME=" + c.r.net.edge}, env...))
}

// HubLog is the file that the child's edgehub logs to.
func (c *Child) HubLog() string { return filepath.Join(c.r.o.Dir, c.id+".log") }

// Key is the key of the device.
func (c *Child) Key() []byte { return c.key }

// Login is how a device connects to the child's hub over MQTT.
func (c *Child) Login(device string, key []byte) mqttload.Options {
	return mqttload.Options{
		Addr:     c.net.edge + ":8883",
		TLS:      &tls.Config{RootCAs: c.workload.roots, ServerName: c.net.edge, MinVersion: tls.VersionTLS12},
		ClientID: device,
		Username: c.r.net.hub + "/" + device + "/?api-version=" + apiVersion,
		Password: Token(c.r.net.hub+"/devices/"+device, key, time.Now().Add(24*time.Hour)),
	}
}

// EdgeTLS is what clients of the rig's edgehub need to trust it.
func (r *Rig) EdgeTLS() *tls.Config {
	return &tls.Config{RootCAs: r.workload.roots, ServerName: r.net.edge, MinVersion: tls.VersionTLS12}
}
