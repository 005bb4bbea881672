package workload_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/api"
	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	"github.com/breakwater-iot/breakwater/daemon/internal/keys"
	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/workload"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

var update = flag.Bool("update", false, "write golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const generation = "637000000000000000"

// who answers for every process with one module.
type who string

func (w who) ModuleOfPid(_ context.Context, pid int) (runtime.Process, error) {
	if w == "" {
		return runtime.Process{}, runtime.ErrNotFound
	}
	return runtime.Process{Pid: pid, Module: string(w)}, nil
}

type identities map[string]string

func (i identities) Lookup(_ context.Context, module string) (identity.Identity, error) {
	if g, ok := i[module]; ok {
		return identity.Identity{ModuleID: module, GenerationID: g}, nil
	}
	return identity.Identity{}, identity.ErrNotFound
}

type modules []runtime.State

func (m modules) List(context.Context) ([]runtime.State, error) { return m, nil }

// issuer is the real authority, or one that fails.
type brokenIssuer struct{ workload.Issuer }

func (brokenIssuer) Server(string, string) (pki.Issued, error) {
	return pki.Issued{}, errors.New("edge CA expired")
}

// fixture is a workload server with one socket.
type fixture struct {
	path      string
	server    *api.Server
	authority *pki.Authority
	ring      *keys.Ring
}

func serve(t *testing.T, caller, socket string, change ...func(*workload.Service)) *fixture {
	t.Helper()
	dir := t.TempDir()
	ring, err := keys.New(bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.Open(t.Context(), pki.Options{DeviceID: "edge1", Dir: dir, Days: 90})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	svc := &workload.Service{
		Hub: "hub.local", Device: "edge1", Keys: ring, Issuer: authority, Log: log,
		Identities: identities{"$edgeHub": generation, "temp": generation},
		Modules: modules{
			{Name: "edgeHub", Image: "reg/hub:1", ImageID: "sha256:aa", Status: runtime.StatusRunning, Started: time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)},
			{Name: "temp", Image: "reg/temp:1", ImageID: "sha256:bb", Status: runtime.StatusExited, ExitCode: 137,
				Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Exited: time.Date(2026, 1, 2, 4, 0, 0, 0, time.UTC)},
			{Name: "new", Image: "reg/new:1", Status: runtime.StatusCreated},
		},
	}
	for _, f := range change {
		f(svc)
	}
	server, err := api.New(api.Options{
		Register:    func(r grpc.ServiceRegistrar) { workloadv1.RegisterWorkloadServer(r, svc) },
		REST:        api.WorkloadREST,
		MaxRequests: 10,
		Log:         log,
		Guard:       &peer.Guard{Policy: workload.Policy(), Resolver: who(caller), AdminGroup: -1, Log: log},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	f := &fixture{path: filepath.Join(dir, "w.sock"), server: server, authority: authority, ring: ring}
	if _, err := server.Listen(api.Endpoint{Path: f.path, Module: socket, Mode: 0o666, Group: -1}); err != nil {
		t.Fatal(err)
	}
	return f
}

// exchange sends raw bytes and returns the status line, sorted-out headers and body.
func exchange(t *testing.T, f *fixture, request string) string {
	t.Helper()
	conn, err := net.Dial("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.ContentLength != int64(len(body)) {
		t.Errorf("content length %d of %d", res.ContentLength, len(body))
	}
	return fmt.Sprintf("%s\nContent-Type: %s\n\n%s\n", res.Status, res.Header.Get("Content-Type"), body)
}

func request(line, body string) string {
	return fmt.Sprintf("%s HTTP/1.1\nHost: localhost\nContent-Type: application/json; charset=utf-8\nContent-Length: %d\nConnection: close\n\n%s", line, len(body), body)
}

const sign = `{"keyId":"primary","algo":"HMACSHA256","data":"aHViL2RldmljZXMvZAoxNzAwMDAwMDAw"}`

// varying is what differs from run to run.
var varying = regexp.MustCompile(`-----BEGIN [^"]*?-----\\n"|"expiration":"[^"]*"`)

func TestGoldenTranscripts(t *testing.T) {
	const v = "?api-version=2018-06-28"
	hub := "/modules/%24edgeHub/genid/" + generation
	for _, c := range []struct{ name, request string }{
		{"sign", request("POST "+hub+"/sign"+v, sign)},
		{"sign_plain_dollar", request("POST /modules/$edgeHub/genid/"+generation+"/sign"+v, sign)},
		{"sign_newest_version", request("POST "+hub+"/sign?api-version=2022-08-03", sign)},
		{"sign_other_key_and_algo", request("POST "+hub+"/sign"+v, `{"keyId":"secondary","algo":"MD5","data":"aHViL2RldmljZXMvZAoxNzAwMDAwMDAw","future":[1]}`)},
		{"sign_empty_host", strings.Replace(request("POST "+hub+"/sign"+v, sign), "Host: localhost", "Host:", 1)},
		{"sign_socket_as_host", strings.Replace(request("POST "+hub+"/sign"+v, sign), "Host: localhost", "Host: /var/run/iotedge/workload.sock", 1)},
		{"sign_no_host", strings.Replace(request("POST "+hub+"/sign"+v, sign), "Host: localhost\n", "", 1)},
		{"sign_no_content_type", strings.Replace(request("POST "+hub+"/sign"+v, sign), "Content-Type: application/json; charset=utf-8\n", "", 1)},
		{"sign_chunked", "POST " + hub + "/sign" + v + " HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nConnection: close\n\n" + fmt.Sprintf("%x\n%s\n0\n\n", len(sign), sign)},
		{"sign_unpadded", request("POST "+hub+"/sign"+v, `{"data":"YQ"}`)},
		{"sign_bad_base64", request("POST "+hub+"/sign"+v, `{"data":"*"}`)},
		{"sign_bad_json", request("POST "+hub+"/sign"+v, `{"data":`)},
		{"sign_not_an_object", request("POST "+hub+"/sign"+v, `["a"]`)},
		{"sign_wrong_type", request("POST "+hub+"/sign"+v, `{"data":5}`)},
		{"sign_wrong_content_type", strings.Replace(request("POST "+hub+"/sign"+v, sign), "application/json", "text/plain", 1)},
		{"sign_other_module", request("POST /modules/temp/genid/"+generation+"/sign"+v, sign)},
		{"sign_body_cannot_rename", request("POST /modules/temp/genid/"+generation+"/sign"+v, `{"moduleId":"$edgeHub","data":"YQ=="}`)},
		{"sign_forged_headers", strings.Replace(request("POST /modules/temp/genid/"+generation+"/sign"+v, sign), "Host:", "Grpc-Metadata-Module: temp\nX-Forwarded-For: 1.2.3.4\nX-Module: temp\nHost:", 1)},
		{"sign_get", "GET " + hub + "/sign" + v + " HTTP/1.1\nHost: x\nConnection: close\n\n"},
		{"encrypt", request("POST "+hub+"/encrypt"+v, `{"plaintext":"dGV4dA==","initializationVector":"aXY="}`)},
		{"encrypt_no_vector", request("POST "+hub+"/encrypt"+v, `{"plaintext":"dGV4dA=="}`)},
		{"encrypt_other_generation", request("POST /modules/%24edgeHub/genid/1/encrypt"+v, `{"plaintext":"dGV4dA==","initializationVector":"aXY="}`)},
		{"decrypt", request("POST "+hub+"/decrypt"+v, `{"ciphertext":"AunqxAmUDL+rhHI7ZR+qyAmy4EhP","initializationVector":"aXY="}`)},
		{"decrypt_changed", request("POST "+hub+"/decrypt"+v, `{"ciphertext":"AunqxAmUDL+rhHI7ZR+qyAmy4EhQ","initializationVector":"aXY="}`)},
		{"server_certificate", request("POST "+hub+"/certificate/server"+v, `{"commonName":"gateway.local","expiration":"2030-01-01T00:00:00Z"}`)},
		{"server_certificate_no_name", request("POST "+hub+"/certificate/server"+v, `{}`)},
		{"identity_certificate", request("POST /modules/%24edgeHub/certificate/identity"+v, `{"expiration":"2030-01-01T00:00:00Z"}`)},
		{"identity_certificate_no_body", request("POST /modules/%24edgeHub/certificate/identity"+v, "")},
		{"trust_bundle", "GET /trust-bundle" + v + " HTTP/1.1\nHost: x\nConnection: close\n\n"},
		{"manifest_trust_bundle", "GET /manifest-trust-bundle?api-version=2020-07-07 HTTP/1.1\nHost: x\nConnection: close\n\n"},
		{"modules", "GET /modules" + v + " HTTP/1.1\nHost: x\nConnection: close\n\n"},
		{"modules_slash", "GET /modules/" + v + " HTTP/1.1\nHost: x\nConnection: close\n\n"},
		{"no_version", "GET /trust-bundle HTTP/1.1\nHost: x\nConnection: close\n\n"},
		{"unknown_version", "GET /trust-bundle?api-version=2017-01-01 HTTP/1.1\nHost: x\nConnection: close\n\n"},
		{"unknown_path", "GET /nothing" + v + " HTTP/1.1\nHost: x\nConnection: close\n\n"},
		{"post_trust_bundle", request("POST /trust-bundle"+v, "{}")},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := serve(t, "edgeHub", "edgeHub")
			got := varying.ReplaceAllString(exchange(t, f, c.request), "(varies)")
			path := filepath.Join("testdata", c.name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func client(t *testing.T, f *fixture) workloadv1.WorkloadClient {
	t.Helper()
	return workloadv1.NewWorkloadClient(dial(t, f))
}

func dial(t *testing.T, f *fixture) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+f.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestGRPCAndRESTDecideAlike(t *testing.T) {
	for _, c := range []struct {
		name, caller, socket, module string
		code                         codes.Code
		status                       string
	}{
		{"module itself", "temp", "temp", "temp", codes.OK, "200 OK"},
		{"module itself on the shared socket", "temp", "", "temp", codes.OK, "200 OK"},
		{"system module", "edgeHub", "edgeHub", "$edgeHub", codes.OK, "200 OK"},
		{"another module", "temp", "temp", "$edgeHub", codes.PermissionDenied, "403 Forbidden"},
		{"another's socket", "temp", "edgeHub", "temp", codes.PermissionDenied, "403 Forbidden"},
		{"host process", "", "", "temp", codes.PermissionDenied, "403 Forbidden"},
		{"module without identity", "ghost", "ghost", "ghost", codes.Internal, "500 Internal Server Error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := serve(t, c.caller, c.socket)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "module", c.module, "x-forwarded-for", "1.1.1.1")
			res, err := client(t, f).Sign(ctx, &workloadv1.SignRequest{ModuleId: c.module, GenerationId: generation, Data: []byte("x")})
			if status.Code(err) != c.code {
				t.Errorf("gRPC: %v, want %v", err, c.code)
			}
			if err == nil && !bytes.Equal(res.GetDigest(), f.ring.Sign(c.module, generation, []byte("x"))) {
				t.Error("gRPC: wrong digest")
			}
			rest := exchange(t, f, request("POST /modules/"+strings.ReplaceAll(c.module, "$", "%24")+"/genid/"+generation+"/sign?api-version=2018-06-28", sign))
			if !strings.HasPrefix(rest, c.status+"\n") {
				t.Errorf("REST: %s, want %s", rest, c.status)
			}
			if _, err := client(t, f).GetTrustBundle(t.Context(), &workloadv1.GetTrustBundleRequest{}); err != nil {
				t.Errorf("trust bundle is for anybody: %v", err)
			}
			health, err := healthv1.NewHealthClient(dial(t, f)).Check(t.Context(), &healthv1.HealthCheckRequest{})
			if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				t.Errorf("health: %v, %v", health, err)
			}
		})
	}
}

func TestEveryMethodHasARule(t *testing.T) {
	policy := workload.Policy()
	for _, m := range workloadv1.Workload_ServiceDesc.Methods {
		if policy["/"+workloadv1.Workload_ServiceDesc.ServiceName+"/"+m.MethodName] == peer.Nobody {
			t.Errorf("%s has no rule", m.MethodName)
		}
	}
}

func TestKeysOfCertificatesVerify(t *testing.T) {
	f := serve(t, "edgeHub", "edgeHub")
	out, err := client(t, f).CreateServerCertificate(t.Context(), &workloadv1.ServerCertificateRequest{ModuleId: "$edgeHub", GenerationId: generation, CommonName: "gw"})
	if err != nil {
		t.Fatal(err)
	}
	if out.GetPrivateKey().GetType() != "key" || out.GetPrivateKey().Ref != nil {
		t.Errorf("private key %v", out.GetPrivateKey().GetType())
	}
	chain, err := pki.ParseCertificates([]byte(out.GetCertificate()))
	if err != nil || len(chain) != 2 || !chain[1].Equal(f.authority.Certificate()) {
		t.Fatalf("chain of %d, %v", len(chain), err)
	}
	if out.GetExpiration() != chain[0].NotAfter.UTC().Format(time.RFC3339) {
		t.Errorf("expiration %s", out.GetExpiration())
	}
}

func TestIssuerFailureIsInternal(t *testing.T) {
	f := serve(t, "edgeHub", "edgeHub", func(s *workload.Service) { s.Issuer = brokenIssuer{s.Issuer} })
	_, err := client(t, f).CreateServerCertificate(t.Context(), &workloadv1.ServerCertificateRequest{ModuleId: "edgeHub", CommonName: "gw"})
	if status.Code(err) != codes.Internal {
		t.Fatalf("got %v", err)
	}
}

func TestSocketsComeAndGo(t *testing.T) {
	f := serve(t, "temp", "")
	dir := filepath.Join(t.TempDir(), "mnt")
	s, err := workload.NewSockets(f.server, dir)
	if err != nil {
		t.Fatal(err)
	}
	path := s.Path("temp")
	// What an engine makes of a missing bind source.
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // opening twice is fine
		if err := s.Open("temp"); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Type() != os.ModeSocket || st.Mode().Perm() != 0o666 {
		t.Fatalf("socket: %v, %v", st.Mode(), err)
	}
	idle, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	s.Close("temp")
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("connection outlived its socket")
	}
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("closed socket accepts")
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("closing removed the file")
	}
	if err := s.Open("temp"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // removing twice is fine
		if err := s.Remove("temp"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file is still there: %v", err)
	}
}
