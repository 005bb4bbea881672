package client_test

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
	"google.golang.org/grpc"
)

// daemon is a workload API that signs with the test key.
type daemon struct {
	workloadv1.UnimplementedWorkloadServer
	bundle string
	signed chan *workloadv1.SignRequest
}

func (d *daemon) Sign(_ context.Context, r *workloadv1.SignRequest) (*workloadv1.SignResponse, error) {
	d.signed <- r
	digest, err := testKey.Sign(r.GetData())
	return &workloadv1.SignResponse{Digest: digest}, err
}

func (d *daemon) GetTrustBundle(context.Context, *workloadv1.GetTrustBundleRequest) (*workloadv1.TrustBundle, error) {
	return &workloadv1.TrustBundle{Certificate: d.bundle}, nil
}

// serve starts the daemon and returns its URI.
func (d *daemon) serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "w.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workloadv1.RegisterWorkloadServer(server, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return "unix://" + path
}

func (h *hub) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.tls.Certificates[0].Certificate[0]}))
}

func lookup(m map[string]string) func(string) string {
	return func(name string) string { return m[name] }
}

// try runs a client, sends once and stops it.
func try(t *testing.T, c *client.Client) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	if err := c.Send(ctx, text("x")); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFromEnvironment(t *testing.T) {
	h := newHub(t)
	defer h.close()
	d := &daemon{bundle: h.pem(), signed: make(chan *workloadv1.SignRequest, 10)}
	env := map[string]string{
		"IOTEDGE_WORKLOADURI":        d.serve(t),
		"IOTEDGE_DEVICEID":           module.Device,
		"IOTEDGE_MODULEID":           module.Module,
		"IOTEDGE_MODULEGENERATIONID": "gen",
		"IOTEDGE_IOTHUBHOSTNAME":     hubName,
		"IOTEDGE_GATEWAYHOSTNAME":    "gateway.test",
		"IOTEDGE_AUTHSCHEME":         "sasToken",
	}
	var dialed string
	o := client.Options{Retry: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed = address
		return h.dial(ctx, network, address)
	}}
	c, err := client.FromEnvironment(t.Context(), lookup(env), o)
	if err != nil {
		t.Fatal(err)
	}
	try(t, c)
	if dialed != "gateway.test:8883" {
		t.Errorf("dialed %s", dialed)
	}
	if r := <-d.signed; r.GetModuleId() != module.Module || r.GetGenerationId() != "gen" {
		t.Errorf("signed for %v", r)
	}
	if !strings.Contains(h.logins[0].user.HubName, hubName) || h.logins[0].user.Identity != module {
		t.Errorf("login %+v", h.logins[0])
	}

	for _, name := range []string{"IOTEDGE_WORKLOADURI", "IOTEDGE_DEVICEID", "IOTEDGE_MODULEID", "IOTEDGE_MODULEGENERATIONID", "IOTEDGE_IOTHUBHOSTNAME"} {
		value := env[name]
		delete(env, name)
		if _, err := client.FromEnvironment(t.Context(), lookup(env), o); !errors.Is(err, client.ErrOptions) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
		env[name] = value
	}
	for name, value := range map[string]string{"IOTEDGE_AUTHSCHEME": "x509", "IOTEDGE_WORKLOADURI": "http://x"} {
		old := env[name]
		env[name] = value
		if _, err := client.FromEnvironment(t.Context(), lookup(env), o); !errors.Is(err, client.ErrOptions) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
		env[name] = old
	}
}

func TestFromEnvironmentPrefersAConnectionString(t *testing.T) {
	h := newHub(t)
	defer h.close()
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, []byte(h.pem()), 0o600); err != nil {
		t.Fatal(err)
	}
	const secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	env := map[string]string{
		"EdgeHubConnectionString":     "HostName=" + hubName + ";DeviceId=dev;ModuleId=mod;SharedAccessKey=" + secret + ";GatewayHostName=gateway.test",
		"EdgeModuleCACertificateFile": file,
		"IOTEDGE_WORKLOADURI":         "unix:///nowhere",
	}
	c, err := client.FromEnvironment(t.Context(), lookup(env), client.Options{Retry: true, Dial: h.dial})
	if err != nil {
		t.Fatal(err)
	}
	try(t, c)

	env["EdgeHubConnectionString"] = strings.Replace(env["EdgeHubConnectionString"], "SharedAccessKey=", "SharedAccessKey=!", 1)
	if _, err := client.FromEnvironment(t.Context(), lookup(env), client.Options{}); !errors.Is(err, client.ErrOptions) || strings.Contains(err.Error(), secret[:10]) {
		t.Errorf("bad connection string: %v", err)
	}
}

func TestFromConnectionString(t *testing.T) {
	for text, ok := range map[string]bool{
		"HostName=h;DeviceId=d;SharedAccessKey=MDEy":                          true,
		"HostName=h;DeviceId=d;SharedAccessSignature=SharedAccessSignature x": true,
		"HostName=h;DeviceId=d;x509=true":                                     false, // no certificate given
		"HostName=h;SharedAccessKeyName=n;SharedAccessKey=MDEy":               false,
	} {
		s, err := connstr.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.FromConnectionString(s, client.Options{}); (err == nil) != ok || (err != nil && !errors.Is(err, client.ErrOptions)) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
