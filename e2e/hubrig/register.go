package hubrig

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/amqpload"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

const apiVersion = "2021-04-12"

// register makes the edge device with its modules and gives the hub its routes.
func (r *Rig) register(ctx context.Context) error {
	if _, err := r.IoTHub(ctx, "device", "create", EdgeID, "--edge"); err != nil {
		return err
	}
	return r.furnish(ctx, EdgeID, r.o.Modules, r.keys, r.o.Routes)
}

// furnish makes the modules of an edge device, with keys that it fills in, and gives
// its hub the routes.
func (r *Rig) furnish(ctx context.Context, device string, modules []string, keys map[string][]byte, routes map[string]string) error {
	for _, m := range append([]string{hubModule}, modules...) {
		key := make([]byte, 32)
		rand.Read(key) //nolint:errcheck // never fails (crypto/rand)
		keys[m] = key
		if err := r.putModule(ctx, device, m, key); err != nil {
			return fmt.Errorf("module %s: %w", m, err)
		}
	}
	manifest, err := json.Marshal(map[string]any{"modulesContent": map[string]any{
		"$edgeAgent": map[string]any{"properties.desired": map[string]any{
			"schemaVersion": "1.1", "runtime": map[string]any{"type": "docker", "settings": map[string]any{}},
			"systemModules": map[string]any{}, "modules": map[string]any{},
		}},
		hubModule: map[string]any{"properties.desired": map[string]any{
			"schemaVersion": "1.1", "routes": routes,
			"storeAndForwardConfiguration": map[string]any{"timeToLiveSecs": 86400},
		}},
	}})
	if err != nil {
		return err
	}
	file := filepath.Join(r.o.Dir, "manifest-"+device+".json")
	if err := os.WriteFile(file, manifest, 0o600); err != nil {
		return err
	}
	_, err = r.IoTHub(ctx, "deploy", "--device", device, file)
	return err
}

// IoTHub runs a subcommand of iothub against the cloud and returns what it printed.
func (r *Rig) IoTHub(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, r.bin("iothub"), args...)
	cmd.Env = append(os.Environ(), r.cloudEnv()...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("iothub %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (r *Rig) httpClient() (*http.Client, error) {
	raw, err := os.ReadFile(r.cloudRoot())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(raw)
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 64, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
	}, nil
}

func (r *Rig) putModule(ctx context.Context, device, module string, key []byte) error {
	ifMatch := ""
	if module == hubModule {
		ifMatch = "*" // it came with the device
	}
	return r.Put(ctx, "devices/"+device+"/modules/"+url.PathEscape(module), ifMatch, map[string]any{
		"deviceId": device, "moduleId": module, "managedBy": "IotEdge", "authentication": SymmetricKey(key),
	}, nil)
}

// SymmetricKey is the document of an authentication by key.
func SymmetricKey(key []byte) map[string]any {
	text := base64.StdEncoding.EncodeToString(key)
	return map[string]any{"type": "sas", "symmetricKey": map[string]string{"primaryKey": text, "secondaryKey": text}}
}

// Put writes a document of iothub's REST API with the rights of the owner, and reads
// the answer into got unless that is nil. ifMatch is an etag, "*", or "" to create.
func (r *Rig) Put(ctx context.Context, path, ifMatch string, doc, got any) error {
	body, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if ifMatch != "" {
		header.Set("If-Match", `"`+ifMatch+`"`)
	}
	return r.rest(ctx, http.MethodPut, path, header, body, got)
}

// Get reads a document of iothub's REST API.
func (r *Rig) Get(ctx context.Context, path string, got any) error {
	return r.rest(ctx, http.MethodGet, path, nil, nil, got)
}

func (r *Rig) rest(ctx context.Context, method, path string, header http.Header, body []byte, got any) error {
	q, err := http.NewRequestWithContext(ctx, method, "https://"+r.net.hub+"/"+path+"?api-version="+apiVersion, bytes.NewReader(body))
	if err != nil {
		return err
	}
	maps.Copy(q.Header, header)
	if err := r.authorize(q); err != nil {
		return err
	}
	answer, err := r.client.Do(q)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	if got == nil {
		return nil
	}
	return json.Unmarshal(text, got)
}

func (r *Rig) authorize(q *http.Request) error {
	var owner struct{ name, key string }
	for _, part := range strings.Split(r.owner, ";") {
		switch name, value, _ := strings.Cut(part, "="); name {
		case "SharedAccessKeyName":
			owner.name = value
		case "SharedAccessKey":
			owner.key = value
		}
	}
	secret, err := base64.StdEncoding.DecodeString(owner.key)
	if err != nil {
		return fmt.Errorf("key of the owner: %w", err)
	}
	q.Header.Set("Authorization", Token(r.net.hub, secret, time.Now().Add(time.Hour))+"&skn="+owner.name)
	return nil
}

// Token is a SAS token for a resource.
func Token(resource string, key []byte, expiry time.Time) string {
	sr, se := url.QueryEscape(resource), fmt.Sprint(expiry.Unix())
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s\n%s", sr, se)
	sig := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(sig) + "&se=" + se
}

// Login is how a module connects to the hub.
func (r *Rig) Login(module string) mqttload.Options {
	return mqttload.Options{
		Addr:     r.net.edge + ":8883",
		TLS:      &tls.Config{RootCAs: r.workload.roots, ServerName: r.net.edge, MinVersion: tls.VersionTLS12},
		ClientID: EdgeID + "/" + module,
		Username: r.net.hub + "/" + EdgeID + "/" + module + "/?api-version=" + apiVersion,
		Password: Token(r.net.hub+"/devices/"+EdgeID+"/modules/"+module, r.keys[module], time.Now().Add(24*time.Hour)),
	}
}

// DeviceLogin is how a device connects to the hub.
func (r *Rig) DeviceLogin(device string, key []byte) mqttload.Options {
	return mqttload.Options{
		Addr: r.net.edge + ":8883", TLS: r.EdgeTLS(), ClientID: device,
		Username: r.net.hub + "/" + device + "/?api-version=" + apiVersion,
		Password: Token(r.net.hub+"/devices/"+device, key, time.Now().Add(24*time.Hour)),
	}
}

// LoginAMQP is how a module connects to the hub over AMQP, to send to its outputs.
func (r *Rig) LoginAMQP(module string) amqpload.Options {
	o := r.Login(module)
	name, _, _ := strings.Cut(r.net.hub, ".")
	return amqpload.Options{
		Addr: r.net.edge + ":5671", TLS: o.TLS, Host: r.net.hub, Password: o.Password,
		Username: EdgeID + "/modules/" + module + "@sas." + name,
		Address:  "/devices/" + EdgeID + "/modules/" + module + "/messages/events",
	}
}

// Output is the topic that a module sends to its output on.
func Output(module, output string) string {
	return "devices/" + EdgeID + "/modules/" + module + "/messages/events/%24.on=" + output
}

// Inputs is the filter of a module's inputs.
func Inputs(module string) string { return "devices/" + EdgeID + "/modules/" + module + "/inputs/#" }
