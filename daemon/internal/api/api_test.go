package api_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/breakwater-iot/breakwater/daemon/internal/api"
	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers Sign with the request's data, after gate when there is one.
type service struct {
	workloadv1.UnimplementedWorkloadServer
	entered chan struct{}
	gate    chan struct{}
}

func (s *service) Sign(ctx context.Context, r *workloadv1.SignRequest) (*workloadv1.SignResponse, error) {
	if s.gate != nil {
		s.entered <- struct{}{}
		select {
		case <-s.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &workloadv1.SignResponse{Digest: append([]byte(r.GetModuleId()+" "), r.GetData()...)}, nil
}

// stream watches until its context ends.
type stream struct {
	managementv1.UnimplementedModulesServer
	ended chan struct{}
}

func (s *stream) Watch(_ *managementv1.WatchRequest, st grpc.ServerStreamingServer[managementv1.ModuleEvent]) error {
	if err := st.Send(&managementv1.ModuleEvent{Name: "first"}); err != nil {
		return err
	}
	<-st.Context().Done()
	close(s.ended)
	return st.Context().Err()
}

// who is the module that every new process belongs to.
type who struct{ name atomic.Value }

func (w *who) ModuleOfPid(context.Context, int) (runtime.Process, error) {
	return runtime.Process{Module: w.name.Load().(string)}, nil
}

type server struct {
	*api.Server
	socket *api.Socket
	path   string
	caller *who
	stop   func()
}

func start(t *testing.T, svc *service, watch *stream, limit int, rest func(context.Context, api.Local) (http.Handler, error)) *server {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	caller := &who{}
	caller.name.Store("temp")
	s, err := api.New(api.Options{
		Register: func(r grpc.ServiceRegistrar) {
			workloadv1.RegisterWorkloadServer(r, svc)
			if watch != nil {
				managementv1.RegisterModulesServer(r, watch)
			}
		},
		REST: rest, MaxRequests: limit, Log: log,
		Guard: &peer.Guard{Log: log, Resolver: caller, AdminGroup: -1, Policy: peer.Policy{
			workloadv1.Workload_Sign_FullMethodName:        peer.Self,
			managementv1.Modules_Watch_FullMethodName:      peer.Anybody,
			workloadv1.Workload_ListModules_FullMethodName: peer.Anybody,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	out := &server{Server: s, path: filepath.Join(t.TempDir(), "s"), caller: caller}
	out.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(out.stop)
	if out.socket, err = s.Listen(api.Endpoint{Path: out.path, Module: "temp", Mode: 0o600, Group: os.Getgid()}); err != nil {
		t.Fatal(err)
	}
	return out
}

func dial(t *testing.T, s *server) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+s.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func connect(t *testing.T, s *server) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func post(body string) string {
	return fmt.Sprintf("POST /modules/temp/genid/1/sign?api-version=2018-06-28 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func answer(t *testing.T, c net.Conn, r *bufio.Reader) (int, string) {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestRESTKeepsConnectionsAlive(t *testing.T) {
	s := start(t, &service{}, nil, 4, api.WorkloadREST)
	c := connect(t, s)
	r := bufio.NewReader(c)
	for range 3 {
		if _, err := io.WriteString(c, post(`{"data":"YQ=="}`)); err != nil {
			t.Fatal(err)
		}
		if code, body := answer(t, c, r); code != 200 || body != `{"digest":"dGVtcCBh"}` {
			t.Fatalf("%d %s", code, body)
		}
	}
}

func TestBytesMayArriveOneByOne(t *testing.T) {
	s := start(t, &service{}, nil, 4, api.WorkloadREST)
	c := connect(t, s)
	for _, b := range []byte(post(`{"data":"YQ=="}`)) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if code, body := answer(t, c, bufio.NewReader(c)); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
}

func TestSlowBodyIs408(t *testing.T) {
	const patience = 50 * time.Millisecond
	for name, c := range map[string]struct {
		rest func(context.Context, api.Local) (http.Handler, error)
		line string
	}{
		"workload":   {api.WorkloadRESTWithin(patience), "POST /modules/temp/genid/1/sign"},
		"management": {api.ManagementRESTWithin(patience), "PUT /modules/temp"},
	} {
		s := start(t, &service{}, nil, 4, c.rest)
		conn := connect(t, s)
		_, err := io.WriteString(conn, c.line+"?api-version=2022-08-03 HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{\"data\":")
		if err != nil {
			t.Fatal(err)
		}
		if code, body := answer(t, conn, bufio.NewReader(conn)); code != 408 || body != `{"message":"request timeout"}` {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
}

func TestLargeBodyIs413(t *testing.T) {
	s := start(t, &service{}, nil, 4, api.WorkloadREST)
	c := connect(t, s)
	go func() { _, _ = io.WriteString(c, post(`{"data":"`+strings.Repeat("A", 5<<20)+`"}`)) }()
	if code, body := answer(t, c, bufio.NewReader(c)); code != 413 {
		t.Fatalf("%d %s", code, body)
	}
}

func TestWithoutRESTEveryPathIs404(t *testing.T) {
	s := start(t, &service{}, nil, 4, nil)
	c := connect(t, s)
	if _, err := io.WriteString(c, post("{}")); err != nil {
		t.Fatal(err)
	}
	if code, body := answer(t, c, bufio.NewReader(c)); code != 404 || body != `{"message":"not found"}` {
		t.Fatalf("%d %s", code, body)
	}
}

func TestUnlistedMethodIsRefused(t *testing.T) {
	s := start(t, &service{}, nil, 4, api.WorkloadREST)
	_, err := workloadv1.NewWorkloadClient(dial(t, s)).GetTrustBundle(t.Context(), &workloadv1.GetTrustBundleRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Fatalf("got %v", err)
	}
}

func TestRequestsOfOneCallerAreBounded(t *testing.T) {
	svc := &service{entered: make(chan struct{}), gate: make(chan struct{})}
	s := start(t, svc, nil, 2, api.WorkloadREST)
	client := workloadv1.NewWorkloadClient(dial(t, s))
	results := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := client.Sign(t.Context(), &workloadv1.SignRequest{ModuleId: "temp"})
			results <- err
		}()
		<-svc.entered
	}
	if _, err := client.Sign(t.Context(), &workloadv1.SignRequest{ModuleId: "temp"}); status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("third request: %v", err)
	}
	c := connect(t, s)
	if _, err := io.WriteString(c, post("{}")); err != nil {
		t.Fatal(err)
	}
	if code, _ := answer(t, c, bufio.NewReader(c)); code != 429 {
		t.Fatalf("REST: %d", code)
	}
	close(svc.gate)
	for range 2 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	go func() { <-svc.entered }()
	if _, err := client.Sign(t.Context(), &workloadv1.SignRequest{ModuleId: "temp"}); err != nil {
		t.Fatalf("afterwards: %v", err)
	}
}

func TestModulesHaveTheirOwnBounds(t *testing.T) {
	svc := &service{entered: make(chan struct{}), gate: make(chan struct{})}
	s := start(t, svc, nil, 1, api.WorkloadREST)
	other := &server{path: filepath.Join(t.TempDir(), "s")}
	if _, err := s.Listen(api.Endpoint{Path: other.path, Module: "filter", Mode: 0o600, Group: -1}); err != nil {
		t.Fatal(err)
	}
	results := make(chan error, 2)
	for _, c := range []struct {
		name string
		at   *server
	}{{"temp", s}, {"filter", other}} { // all processes here have one user id
		s.caller.name.Store(c.name)
		client := workloadv1.NewWorkloadClient(dial(t, c.at))
		go func() {
			_, err := client.Sign(t.Context(), &workloadv1.SignRequest{ModuleId: c.name})
			results <- err
		}()
		select {
		case <-svc.entered:
		case err := <-results:
			t.Fatalf("%s: %v", c.name, err)
		}
	}
	close(svc.gate)
	for range 2 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
}

func TestConnectionsOfOneSocketAreBounded(t *testing.T) {
	s := start(t, &service{}, nil, 1, api.WorkloadREST)
	var conns []net.Conn
	for range api.ConnsPerRequest {
		conns = append(conns, connect(t, s))
	}
	extra := connect(t, s)
	if _, err := extra.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("connection above the bound: %v", err)
	}
	// One that ends makes room.
	conns[0].Close()
	for {
		c := connect(t, s)
		_, err := io.WriteString(c, post(`{"data":"YQ=="}`))
		if err == nil {
			if res, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && res.StatusCode == 200 {
				return
			}
		}
		c.Close()
	}
}

func TestSocketCloseEndsStreams(t *testing.T) {
	watch := &stream{ended: make(chan struct{})}
	s := start(t, &service{}, watch, 4, nil)
	st, err := managementv1.NewModulesClient(dial(t, s)).Watch(t.Context(), &managementv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := st.Recv(); err != nil || e.GetName() != "first" {
		t.Fatalf("%v, %v", e, err)
	}
	s.socket.Close()
	s.socket.Close()
	if _, err := st.Recv(); err == nil {
		t.Fatal("stream outlived its socket")
	}
	<-watch.ended
}

func TestShutdownEndsStreamsAndSockets(t *testing.T) {
	watch := &stream{ended: make(chan struct{})}
	s := start(t, &service{}, watch, 4, api.WorkloadREST)
	st, err := managementv1.NewModulesClient(dial(t, s)).Watch(t.Context(), &managementv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	silent := connect(t, s) // has sent nothing yet
	began := time.Now()
	s.stop()
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("an open stream held up the end for %v", d)
	}
	<-watch.ended
	if _, err := silent.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("silent connection: %v", err)
	}
	if _, err := s.Listen(api.Endpoint{Path: s.path, Mode: 0o600, Group: -1}); !errors.Is(err, api.ErrClosed) {
		t.Fatalf("listen afterwards: %v", err)
	}
}

func TestListenReplacesStaleSocketAndKeepsForeignContent(t *testing.T) {
	s := start(t, &service{}, nil, 4, nil)
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	if _, err := s.Listen(api.Endpoint{Path: stale, Mode: 0o660, Group: -1}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(stale); err != nil || st.Mode().Perm() != 0o660 {
		t.Fatalf("%v, %v", st, err)
	}
	if _, err := s.Listen(api.Endpoint{Path: filepath.Join(dir, strings.Repeat("x", 120)), Mode: 0o660, Group: -1}); err == nil {
		t.Fatal("a path that no address holds was accepted")
	}
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Listen(api.Endpoint{Path: full, Mode: 0o660, Group: -1}); err == nil {
		t.Fatal("a directory with content was replaced")
	}
}

func TestMendHost(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"good", "GET / HTTP/1.1\r\nHost: a.b\r\nX: y\r\n\r\nbody", "GET / HTTP/1.1\r\nHost: a.b\r\nX: y\r\n\r\nbody"},
		{"empty is good", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\nHost:\r\n\r\n"},
		{"path", "GET / HTTP/1.1\r\nhost: /run/w.sock\r\nConnection: keep-alive\r\nX: y\r\n\r\nbody", "GET / HTTP/1.1\r\nX: y\r\nHost: localhost\r\nConnection: close\r\n\r\nbody"},
		{"absent", "GET / HTTP/1.1\r\nX: y\r\n\r\n", "GET / HTTP/1.1\r\nX: y\r\nHost: localhost\r\nConnection: close\r\n\r\n"},
		{"two", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"},
		{"bare newlines", "GET / HTTP/1.1\nX: y\n\nbody", "GET / HTTP/1.1\nX: y\nHost: localhost\r\nConnection: close\r\n\nbody"},
		{"no head", "GET / HTTP/1.1\r\nX: y\r\n", "GET / HTTP/1.1\r\nX: y\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(api.MendHost([]byte(c.in))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzSniff(f *testing.F) {
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: /x\r\n\r\n"))
	f.Add([]byte("\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		http2, done := api.Judge(data)
		if http2 || !done {
			return
		}
		mended := api.MendHost(data)
		before, errBefore := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		after, errAfter := http.ReadRequest(bufio.NewReader(bytes.NewReader(mended)))
		if errBefore != nil {
			return
		}
		if errAfter != nil {
			t.Fatalf("mending broke a request: %v", errAfter)
		}
		if before.Method != after.Method || before.RequestURI != after.RequestURI || before.ContentLength != after.ContentLength {
			t.Fatalf("mending changed %q to %q", data, mended)
		}
	})
}

// direct registers and calls services without a network.
type direct struct{ service *service }

func (d direct) Invoke(ctx context.Context, method string, in, out any, _ ...grpc.CallOption) error {
	if method != workloadv1.Workload_Sign_FullMethodName {
		return status.Error(codes.NotFound, "other")
	}
	res, err := d.service.Sign(ctx, in.(*workloadv1.SignRequest))
	if err == nil {
		out.(*workloadv1.SignResponse).Digest = res.GetDigest()
	}
	return err
}

func (direct) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams")
}

func (direct) Stream(context.Context, string, proto.Message, func(), func(proto.Message) error) error {
	return status.Error(codes.NotFound, "no streams")
}

func FuzzREST(f *testing.F) {
	handler, err := api.WorkloadREST(context.Background(), direct{&service{}})
	if err != nil {
		f.Fatal(err)
	}
	const v = "?api-version=2018-06-28"
	f.Add("POST", "/modules/%24edgeHub/genid/1/sign"+v, []byte(`{"data":"YQ=="}`))
	f.Add("POST", "/modules/a%25b/genid/%2f/sign"+v, []byte(`{"data":null}`))
	f.Add("POST", "/modules/a:b/certificate/identity"+v, []byte(``))
	f.Add("GET", "/modules/"+v, []byte(nil))
	f.Add("PUT", "/trust-bundle"+v+"&x=%zz", []byte(`[]`))
	fuzzREST(f, handler)
}

func FuzzManagementREST(f *testing.F) {
	handler, err := api.ManagementREST(context.Background(), direct{&service{}})
	if err != nil {
		f.Fatal(err)
	}
	const v = "?api-version=2022-08-03"
	f.Add("POST", "/modules"+v, []byte(`{"name":"a","type":"docker","config":{"settings":{"image":"x","createOptions":{}},"env":[{"key":"A","value":"b"}]}}`))
	f.Add("PUT", "/modules/%24a"+v+"&start=true", []byte(`{"config":{"settings":null}}`))
	f.Add("PUT", "/identities/a%2fb"+v, []byte(`{"generationId":5}`))
	f.Add("POST", "/modules/a/start"+v, []byte(`not json`))
	f.Add("GET", "/modules/%zz/logs"+v+"&follow=yes", []byte(nil))
	f.Add("DELETE", "/identities/"+v, []byte(nil))
	fuzzREST(f, handler)
}

// fuzzREST sends anything; whatever is not understood must be refused in the
// API's form.
func fuzzREST(f *testing.F, handler http.Handler) {
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		req, err := http.NewRequest(method, "http://x", bytes.NewReader(body))
		if err != nil {
			return
		}
		u, err := req.URL.Parse(target)
		if err != nil || !strings.HasPrefix(u.Path, "/") {
			return
		}
		req.URL = u
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		if w.Header().Get("Content-Type") != "application/json" {
			t.Fatalf("%d with type %q: %s", w.Code, w.Header().Get("Content-Type"), w.Body)
		}
		if w.Code >= 400 && !bytes.HasPrefix(w.Body.Bytes(), []byte(`{"message":`)) {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		if w.Code >= 500 {
			t.Fatalf("%s %s %q: %d %s", method, target, body, w.Code, w.Body)
		}
	})
}
