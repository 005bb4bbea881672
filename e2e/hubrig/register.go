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
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

const apiVersion = "2021-04-12"

// register makes the edge device with its modules and gives the hub its routes.
func (r *Rig) register(ctx context.Context) error {
	if err := r.iothub(ctx, "device", "create", EdgeID, "--edge"); err != nil {
		return err
	}
	client, err := r.httpClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	for _, m := range append([]string{hubModule}, r.o.Modules...) {
		key := make([]byte, 32)
		rand.Read(key) //nolint:errcheck // never fails (crypto/rand)
		r.keys[m] = key
		if err := r.putModule(ctx, client, m, key); err != nil {
			return fmt.Errorf("module %s: %w", m, err)
		}
	}
	manifest, err := json.Marshal(map[string]any{"modulesContent": map[string]any{
		"$edgeAgent": map[string]any{"properties.desired": map[string]any{
			"schemaVersion": "1.1", "runtime": map[string]any{"type": "docker", "settings": map[string]any{}},
			"systemModules": map[string]any{}, "modules": map[string]any{},
		}},
		hubModule: map[string]any{"properties.desired": map[string]any{
			"schemaVersion": "1.1", "routes": r.o.Routes,
			"storeAndForwardConfiguration": map[string]any{"timeToLiveSecs": 86400},
		}},
	}})
	if err != nil {
		return err
	}
	file := filepath.Join(r.o.Dir, "manifest.json")
	if err := os.WriteFile(file, manifest, 0o600); err != nil {
		return err
	}
	return r.iothub(ctx, "deploy", "--device", EdgeID, file)
}

// iothub runs a subcommand of iothub.
func (r *Rig) iothub(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, r.bin("iothub"), args...)
	cmd.Env = append(os.Environ(), r.cloudEnv()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("iothub %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
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
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
	}, nil
}

func (r *Rig) putModule(ctx context.Context, client *http.Client, module string, key []byte) error {
	text := base64.StdEncoding.EncodeToString(key)
	body, err := json.Marshal(map[string]any{
		"deviceId": EdgeID, "moduleId": module, "managedBy": "IotEdge",
		"authentication": map[string]any{"type": "sas", "symmetricKey": map[string]string{"primaryKey": text, "secondaryKey": text}},
	})
	if err != nil {
		return err
	}
	address := fmt.Sprintf("https://%s/devices/%s/modules/%s?api-version=%s", r.net.hub, EdgeID, url.PathEscape(module), apiVersion)
	q, err := http.NewRequestWithContext(ctx, http.MethodPut, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	if module == hubModule {
		q.Header.Set("If-Match", `"*"`) // it came with the device
	}
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
	q.Header.Set("Authorization", token(r.net.hub, secret)+"&skn="+owner.name)
	answer, err := client.Do(q)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text2, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", answer.Status, text2)
	}
	return err
}

// token is a SAS token for a resource.
func token(resource string, key []byte) string {
	sr, se := url.QueryEscape(resource), fmt.Sprint(time.Now().Add(24*time.Hour).Unix())
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
		Password: token(r.net.hub+"/devices/"+EdgeID+"/modules/"+module, r.keys[module]),
	}
}

// Output is the topic that a module sends to its output on.
func Output(module, output string) string {
	return "devices/" + EdgeID + "/modules/" + module + "/messages/events/%24.on=" + output
}

// Inputs is the filter of a module's inputs.
func Inputs(module string) string { return "devices/" + EdgeID + "/modules/" + module + "/inputs/#" }
