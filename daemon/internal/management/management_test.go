package management_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/breakwater-iot/breakwater/daemon/internal/api"
	"github.com/breakwater-iot/breakwater/daemon/internal/bundle"
	"github.com/breakwater-iot/breakwater/daemon/internal/handover"
	"github.com/breakwater-iot/breakwater/daemon/internal/hostinfo"
	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	"github.com/breakwater-iot/breakwater/daemon/internal/imagegc"
	"github.com/breakwater-iot/breakwater/daemon/internal/management"
	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registrar notes what it is asked and answers err or one identity.
type registrar struct {
	calls []string
	err   error
}

func (r *registrar) answer(call string) (identity.Identity, error) {
	r.calls = append(r.calls, call)
	return identity.Identity{ModuleID: "temp", GenerationID: "1", ManagedBy: "IotEdge"}, r.err
}

func (r *registrar) List(context.Context) ([]identity.Identity, error) {
	i, err := r.answer("list")
	return []identity.Identity{i}, err
}

func (r *registrar) Create(_ context.Context, m, by string) (identity.Identity, error) {
	return r.answer("create " + m + " " + by)
}

func (r *registrar) Update(_ context.Context, m, g, by string) (identity.Identity, error) {
	return r.answer("update " + m + " " + g + " " + by)
}

func (r *registrar) Delete(_ context.Context, m string) error {
	_, err := r.answer("delete " + m)
	return err
}

// who is the module of every process; empty is the host.
type who string

func (w who) ModuleOfPid(context.Context, int) (runtime.Process, error) {
	if w == "" {
		return runtime.Process{}, runtime.ErrNotFound
	}
	return runtime.Process{Module: string(w)}, nil
}

type noSockets struct{}

func (noSockets) Open(string) error   { return nil }
func (noSockets) Close(string)        {}
func (noSockets) Remove(string) error { return nil }

// agent replaces the agent without further ado.
type agent struct {
	manager *module.Manager
	refusal error
	note    string
}

func (a *agent) Check(module.Spec) error { return a.refusal }

func (a *agent) Update(ctx context.Context, spec module.Spec, start bool) error {
	if a.refusal != nil {
		return a.refusal
	}
	return a.manager.Later(ctx, spec.Name, func(s module.Steps) error { return s.Replace(ctx, spec, start) })
}

func (a *agent) Note() string { return a.note }

type fixture struct {
	*runtimetest.Fake
	manager    *module.Manager
	registrar  *registrar
	agent      *agent
	modules    managementv1.ModulesClient
	identities managementv1.IdentitiesClient
	system     managementv1.SystemClient
	log        *strings.Builder
	path       string
	kept       *imagegc.Kept
	// reprovisions counts the requests to do so.
	reprovisions *atomic.Int32
}

func serve(t *testing.T, caller string) *fixture {
	t.Helper()
	f := &fixture{Fake: runtimetest.New("reg/a:1", "reg/a:2"), registrar: &registrar{}, log: &strings.Builder{}, reprovisions: &atomic.Int32{}}
	log := slog.New(slog.NewTextHandler(f.log, nil))
	f.manager = module.New(module.Options{
		Runtime: f.Fake, Sockets: noSockets{}, AllowElevated: true, Log: log,
		Kept: func() []string { return f.kept.IDs() },
	})
	f.agent = &agent{manager: f.manager}
	kept, err := imagegc.OpenKept(t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	f.kept = kept
	server, err := api.New(api.Options{
		Register: func(r grpc.ServiceRegistrar) {
			managementv1.RegisterModulesServer(r, &management.Modules{Manager: f.manager, Agent: f.agent, Observer: f.Fake, Kept: f.kept, Background: t.Context(), Log: log})
			managementv1.RegisterIdentitiesServer(r, &management.Identities{Registrar: f.registrar, Log: log})
			managementv1.RegisterSystemServer(r, &management.System{
				DynamicReprovisioning: true,
				Observer:              f.Fake, Modules: f.manager, Version: "1.2.3", Additional: map[string]string{"site": "x"},
				DeviceID: "edge1", HubName: "hub", Hostname: "gw", Log: log, Started: time.Now(),
				Host:          hostinfo.Host{Root: "testdata/host"},
				OnReprovision: func() { f.reprovisions.Add(1) },
				Extras: func(_ context.Context, a *bundle.Archive, wish bundle.Wish) error {
					return a.Add("check.json", func(w io.Writer) error {
						_, err := fmt.Fprintf(w, `{"hub":%q,"details":"HostName=h;SharedAccessKey=geheim"}`, wish.HubName)
						return err
					})
				},
			})
		},
		REST: api.ManagementREST, MaxRequests: 10, Log: log,
		Guard: &peer.Guard{Policy: management.Policy(), Resolver: who(caller), AdminGroup: -1, Log: slog.New(slog.DiscardHandler)},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	path := filepath.Join(t.TempDir(), "m.sock")
	f.path = path
	if _, err := server.Listen(api.Endpoint{Path: path, Mode: 0o660, Group: -1}); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.manager.Close()
	})
	f.modules, f.identities, f.system = managementv1.NewModulesClient(conn), managementv1.NewIdentitiesClient(conn), managementv1.NewSystemClient(conn)
	return f
}

func spec(t *testing.T, name, image string, more map[string]any) *managementv1.ModuleSpec {
	t.Helper()
	all := map[string]any{"image": image}
	for k, v := range more {
		all[k] = v
	}
	set, err := structpb.NewStruct(all)
	if err != nil {
		t.Fatal(err)
	}
	return &managementv1.ModuleSpec{Name: name, Type: "docker", Config: &managementv1.ModuleConfig{Settings: set}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLifeOfAModule(t *testing.T) {
	f := serve(t, "edgeAgent")
	ctx := t.Context()
	s := spec(t, "temp", "reg/a:1", map[string]any{
		"createOptions": map[string]any{"Labels": map[string]any{"x": "y"}, "Env": []any{"A=options"}},
		"auth":          map[string]any{"serveraddress": "reg", "username": "u", "password": "hunter2"},
	})
	s.ImagePullPolicy = "On-Create"
	s.Config.Env = []*managementv1.EnvVar{{Key: "A", Value: "1"}, {Key: "B", Value: "2"}}
	got, err := f.modules.Create(ctx, &managementv1.CreateRequest{Spec: s})
	must(t, err)
	if got.GetId() != "id" || got.GetName() != "temp" || got.GetType() != "docker" || got.GetStatus().GetRuntimeStatus().GetStatus() != "stopped" ||
		got.GetStatus().StartTime != nil || got.GetStatus().GetExitStatus() != nil {
		t.Errorf("created: %v", got)
	}
	set := got.GetConfig().GetSettings().AsMap()
	labels, _ := set["createOptions"].(map[string]any)["Labels"].(map[string]any)
	if set["image"] != "reg/a:1" || !strings.HasPrefix(fmt.Sprint(set["imageHash"]), "sha256:") || labels["x"] != "y" || labels[runtime.LabelOwner] != runtime.Owner {
		t.Errorf("settings: %v", set)
	}
	made, _ := f.Spec("temp")
	if !slices.Equal(made.Options.Env, []string{"B=2", "A=options"}) {
		t.Errorf("env: %v", made.Options.Env)
	}
	if p := f.Pulls(); len(p) != 1 || p[0].Auth != (runtime.Auth{ServerAddress: "reg", Username: "u", Password: "hunter2"}) || p[0].Policy != runtime.PullOnCreate {
		t.Errorf("pulls: %v", p)
	}
	_, err = f.modules.Start(ctx, &managementv1.StartRequest{Name: "temp"})
	must(t, err)
	f.Exit("temp", 3)
	got, err = f.modules.Get(ctx, &managementv1.GetRequest{Name: "temp"})
	must(t, err)
	if st := got.GetStatus(); st.GetRuntimeStatus().GetStatus() != "failed" || st.GetExitStatus().GetStatusCode() != "3" || st.StartTime == nil {
		t.Errorf("exited: %v", st)
	}
	if _, err := time.Parse(time.RFC3339, got.GetStatus().GetExitStatus().GetExitTime()); err != nil {
		t.Error(err)
	}
	got, err = f.modules.Update(ctx, &managementv1.UpdateRequest{Name: "temp", Start: true, Spec: spec(t, "temp", "reg/a:2", nil)})
	must(t, err)
	if got.GetStatus().GetRuntimeStatus().GetStatus() != "running" || got.GetConfig().GetSettings().GetFields()["image"].GetStringValue() != "reg/a:2" {
		t.Errorf("updated: %v", got)
	}
	_, err = f.modules.Restart(ctx, &managementv1.RestartRequest{Name: "temp"})
	must(t, err)
	_, err = f.modules.Stop(ctx, &managementv1.StopRequest{Name: "temp"})
	must(t, err)
	_, err = f.modules.PrepareUpdate(ctx, &managementv1.PrepareUpdateRequest{Name: "temp", Spec: spec(t, "temp", "reg/a:1", nil)})
	must(t, err)
	_, err = f.modules.Delete(ctx, &managementv1.DeleteRequest{Name: "temp"})
	must(t, err)
	list, err := f.modules.List(ctx, &managementv1.ListRequest{})
	if err != nil || len(list.GetModules()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if strings.Contains(f.log.String(), "hunter2") {
		t.Error("password in the log")
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	f := serve(t, "edgeAgent")
	must(t, f.manager.Create(t.Context(), module.Spec{Name: "there", Image: "reg/a:1"}))
	create := func(change func(*managementv1.ModuleSpec)) error {
		s := spec(t, "temp", "reg/a:1", nil)
		change(s)
		_, err := f.modules.Create(t.Context(), &managementv1.CreateRequest{Spec: s})
		return err
	}
	settings := func(m map[string]any) func(*managementv1.ModuleSpec) {
		return func(s *managementv1.ModuleSpec) { s.Config = spec(t, "temp", "reg/a:1", m).Config }
	}
	for _, c := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"no spec", func() error { _, err := f.modules.Create(t.Context(), &managementv1.CreateRequest{}); return err }(), codes.InvalidArgument, "spec: missing"},
		{"type", create(func(s *managementv1.ModuleSpec) { s.Type = "wasm" }), codes.InvalidArgument, "type:"},
		{"name", create(func(s *managementv1.ModuleSpec) { s.Name = "../../etc" }), codes.InvalidArgument, "module name"},
		{"dollar", create(func(s *managementv1.ModuleSpec) { s.Name = "$edgeHub" }), codes.InvalidArgument, "module name"},
		{"policy", create(func(s *managementv1.ModuleSpec) { s.ImagePullPolicy = "Always" }), codes.InvalidArgument, "imagePullPolicy"},
		{"no image", create(settings(map[string]any{"image": ""})), codes.InvalidArgument, "settings.image: missing"},
		{"options", create(settings(map[string]any{"createOptions": map[string]any{"Env": "x"}})), codes.InvalidArgument, "settings.createOptions"},
		{"options as text", create(settings(map[string]any{"createOptions": "{}"})), codes.InvalidArgument, "settings.createOptions"},
		{"password", create(settings(map[string]any{"auth": map[string]any{"password": 5}})), codes.InvalidArgument, "settings:"},
		{"double variable", create(func(s *managementv1.ModuleSpec) {
			s.Config.Env = []*managementv1.EnvVar{{Key: "A"}, {Key: "A"}}
		}), codes.InvalidArgument, "A is there twice"},
		{"exists", create(func(s *managementv1.ModuleSpec) { s.Name = "there" }), codes.AlreadyExists, "module exists"},
		{"never pulled", create(func(s *managementv1.ModuleSpec) {
			s.ImagePullPolicy = "never"
			s.Config = spec(t, "temp", "reg/a:2", nil).Config
		}), codes.NotFound, "no such image"},
		{"missing image", create(func(s *managementv1.ModuleSpec) { s.Config = spec(t, "temp", "reg/none", nil).Config }), codes.NotFound, "no such image"},
		{"update under another name", func() error {
			_, err := f.modules.Update(t.Context(), &managementv1.UpdateRequest{Name: "there", Spec: spec(t, "temp", "reg/a:1", nil)})
			return err
		}(), codes.InvalidArgument, "name:"},
		{"prepare under another name", func() error {
			_, err := f.modules.PrepareUpdate(t.Context(), &managementv1.PrepareUpdateRequest{Name: "there", Spec: spec(t, "temp", "reg/a:1", nil)})
			return err
		}(), codes.InvalidArgument, "name:"},
		{"get nobody", func() error { _, err := f.modules.Get(t.Context(), &managementv1.GetRequest{Name: "no"}); return err }(), codes.NotFound, "no such module"},
		{"delete nobody", func() error {
			_, err := f.modules.Delete(t.Context(), &managementv1.DeleteRequest{Name: "no"})
			return err
		}(), codes.NotFound, "no such module"},
	} {
		if status.Code(c.err) != c.code || !strings.Contains(fmt.Sprint(c.err), c.text) {
			t.Errorf("%s: %v, want %v %q", c.name, c.err, c.code, c.text)
		}
	}
}

func TestUpdateOfTheAgentAnswersFirst(t *testing.T) {
	f := serve(t, "edgeAgent")
	must(t, f.manager.Create(t.Context(), module.Spec{Name: "edgeAgent", Image: "reg/a:1"}))
	must(t, f.manager.Start(t.Context(), "edgeAgent"))
	release := make(chan struct{})
	held := make(chan struct{})
	go func() { // holds the agent as a slow operation does
		_ = f.manager.Exclusive(context.Background(), "edgeAgent", func(module.Steps) error {
			close(held)
			<-release
			return nil
		})
	}()
	<-held
	got, err := f.modules.Update(t.Context(), &managementv1.UpdateRequest{Name: "edgeAgent", Start: true, Spec: spec(t, "edgeAgent", "reg/a:2", nil)})
	must(t, err)
	if got.GetConfig().GetSettings().GetFields()["image"].GetStringValue() != "reg/a:2" {
		t.Errorf("promised %v", got)
	}
	if st, err := f.manager.Get(t.Context(), "edgeAgent"); err != nil || st.Image != "reg/a:1" {
		t.Errorf("worked before the answer: %v, %v", st.Image, err)
	}
	events := f.Events(t.Context())
	close(release)
	for e := range events {
		if e.Type == runtime.EventStarted {
			break
		}
	}
	if st, err := f.manager.Get(t.Context(), "edgeAgent"); err != nil || st.Image != "reg/a:2" || st.Status != runtime.StatusRunning {
		t.Errorf("afterwards: %+v, %v", st, err)
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("run as a user: an operator's calls count as refused")
	}
	operator := os.Getuid() == 0
	for _, caller := range []string{"edgeAgent", "temp", ""} {
		f := serve(t, caller)
		ctx := t.Context()
		reads := caller == "edgeAgent" || caller == "" && operator
		writes := caller == "edgeAgent"
		for name, c := range map[string]struct {
			allowed bool
			call    func() error
		}{
			"list":            {reads, func() error { _, err := f.modules.List(ctx, &managementv1.ListRequest{}); return err }},
			"get":             {reads, func() error { _, err := f.modules.Get(ctx, &managementv1.GetRequest{Name: "x"}); return err }},
			"create":          {writes, func() error { _, err := f.modules.Create(ctx, &managementv1.CreateRequest{}); return err }},
			"update":          {writes, func() error { _, err := f.modules.Update(ctx, &managementv1.UpdateRequest{}); return err }},
			"delete":          {writes, func() error { _, err := f.modules.Delete(ctx, &managementv1.DeleteRequest{Name: "x"}); return err }},
			"prepare":         {writes, func() error { _, err := f.modules.PrepareUpdate(ctx, &managementv1.PrepareUpdateRequest{}); return err }},
			"keep images":     {writes, func() error { _, err := f.modules.KeepImages(ctx, &managementv1.KeepImagesRequest{}); return err }},
			"start":           {reads, func() error { _, err := f.modules.Start(ctx, &managementv1.StartRequest{Name: "x"}); return err }},
			"stop":            {reads, func() error { _, err := f.modules.Stop(ctx, &managementv1.StopRequest{Name: "x"}); return err }},
			"restart":         {reads, func() error { _, err := f.modules.Restart(ctx, &managementv1.RestartRequest{Name: "x"}); return err }},
			"list identities": {reads, func() error { _, err := f.identities.List(ctx, &managementv1.ListIdentitiesRequest{}); return err }},
			"create identity": {writes, func() error { _, err := f.identities.Create(ctx, &managementv1.CreateIdentityRequest{}); return err }},
			"update identity": {writes, func() error { _, err := f.identities.Update(ctx, &managementv1.UpdateIdentityRequest{}); return err }},
			"delete identity": {writes, func() error { _, err := f.identities.Delete(ctx, &managementv1.DeleteIdentityRequest{}); return err }},
			"info":            {reads, func() error { _, err := f.system.GetInfo(ctx, &managementv1.GetInfoRequest{}); return err }},
			"resources":       {reads, func() error { _, err := f.system.GetResources(ctx, &managementv1.GetResourcesRequest{}); return err }},
			"reprovision":     {reads, func() error { _, err := f.system.Reprovision(ctx, &managementv1.ReprovisionRequest{}); return err }},
			"logs": {reads, func() error {
				s, err := f.modules.Logs(ctx, &managementv1.LogsRequest{Name: "x"})
				if err == nil {
					_, err = s.Recv()
				}
				return err
			}},
		} {
			if refused := status.Code(c.call()) == codes.PermissionDenied; refused == c.allowed {
				t.Errorf("%q %s: refused %v, allowed should be %v", caller, name, refused, c.allowed)
			}
		}
	}
}

func TestEveryMethodHasARule(t *testing.T) {
	policy := management.Policy()
	for _, d := range []grpc.ServiceDesc{managementv1.Modules_ServiceDesc, managementv1.Identities_ServiceDesc, managementv1.System_ServiceDesc} {
		for _, m := range d.Methods {
			if policy["/"+d.ServiceName+"/"+m.MethodName] == peer.Nobody {
				t.Errorf("%s has no rule", m.MethodName)
			}
		}
		for _, m := range d.Streams {
			if policy["/"+d.ServiceName+"/"+m.StreamName] == peer.Nobody {
				t.Errorf("%s has no rule", m.StreamName)
			}
		}
	}
}

func TestIdentities(t *testing.T) {
	f := serve(t, "edgeAgent")
	ctx := t.Context()
	by := "Me"
	i, err := f.identities.Create(ctx, &managementv1.CreateIdentityRequest{ModuleId: "temp", ManagedBy: &by})
	if err != nil || i.GetModuleId() != "temp" || i.GetGenerationId() != "1" || i.GetManagedBy() != "IotEdge" || i.GetAuthType() != "sas" {
		t.Errorf("%v, %v", i, err)
	}
	_, err = f.identities.Update(ctx, &managementv1.UpdateIdentityRequest{ModuleId: "temp", GenerationId: "1"})
	must(t, err)
	_, err = f.identities.Delete(ctx, &managementv1.DeleteIdentityRequest{ModuleId: "temp"})
	must(t, err)
	list, err := f.identities.List(ctx, &managementv1.ListIdentitiesRequest{})
	if err != nil || len(list.GetIdentities()) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if want := []string{"create temp Me", "update temp 1 ", "delete temp", "list"}; !slices.Equal(f.registrar.calls, want) {
		t.Errorf("calls %q", f.registrar.calls)
	}
	for err, code := range map[error]codes.Code{
		identity.ErrInvalid: codes.InvalidArgument, identity.ErrNotFound: codes.NotFound, identity.ErrRefused: codes.FailedPrecondition,
		runtime.ErrUnavailable: codes.Unavailable, runtime.ErrNoSpace: codes.Unavailable,
		identity.ErrUnavailable: codes.Unavailable, errors.New("other"): codes.Internal,
	} {
		f.registrar.err = fmt.Errorf("wrapped: %w", err)
		if _, got := f.identities.List(ctx, &managementv1.ListIdentitiesRequest{}); status.Code(got) != code {
			t.Errorf("%v: %v, want %v", err, got, code)
		}
	}
}

func TestAgentThatWasTakenBackIsRefusedBeforeItsPull(t *testing.T) {
	f := serve(t, "edgeAgent")
	f.agent.refusal = fmt.Errorf("%w: it ended", handover.ErrTakenBack)
	st, err := structpb.NewStruct(map[string]any{"image": "reg/a:2"})
	if err != nil {
		t.Fatal(err)
	}
	spec := func(name string) *managementv1.ModuleSpec {
		return &managementv1.ModuleSpec{Name: name, Type: "docker", Config: &managementv1.ModuleConfig{Settings: st}}
	}
	_, err = f.modules.PrepareUpdate(t.Context(), &managementv1.PrepareUpdateRequest{Name: "edgeAgent", Spec: spec("edgeAgent")})
	if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "it ended") || len(f.Pulls()) != 0 {
		t.Errorf("prepare: %v, pulls %v", err, f.Pulls())
	}
	_, err = f.modules.Update(t.Context(), &managementv1.UpdateRequest{Name: "edgeAgent", Start: true, Spec: spec("edgeAgent")})
	if status.Code(err) != codes.Aborted || len(f.Pulls()) != 0 {
		t.Errorf("update: %v, pulls %v", err, f.Pulls())
	}
	if _, err = f.modules.PrepareUpdate(t.Context(), &managementv1.PrepareUpdateRequest{Name: "other", Spec: spec("other")}); err != nil {
		t.Errorf("of another module: %v", err)
	}
}

func TestAgentIsDescribedWithItsReplacement(t *testing.T) {
	f := serve(t, "edgeAgent")
	for _, name := range []string{"edgeAgent", "other"} {
		if err := f.manager.Create(t.Context(), module.Spec{Name: name, Image: "reg/a:1"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, note := range []string{"", "reg/a:2 was taken back"} {
		f.agent.note = note
		list, err := f.modules.List(t.Context(), &managementv1.ListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list.GetModules() {
			want := ""
			if m.GetName() == "edgeAgent" {
				want = note
			}
			if got := m.GetStatus().GetRuntimeStatus().GetDescription(); got != want {
				t.Errorf("%s is described as %q, want %q", m.GetName(), got, want)
			}
		}
	}
}

func TestLogs(t *testing.T) {
	f := serve(t, "edgeAgent")
	must(t, f.manager.Create(t.Context(), module.Spec{Name: "temp", Image: "reg/a:1"}))
	must(t, f.manager.Start(t.Context(), "temp"))
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	f.Now = func() time.Time { return at }
	f.Write("temp", runtime.Stdout, "one\n")
	f.Write("temp", runtime.Stderr, "two\n")
	read := func(r *managementv1.LogsRequest) (out []string, err error) {
		r.Name = "temp"
		s, err := f.modules.Logs(t.Context(), r)
		for err == nil {
			var c *managementv1.LogChunk
			if c, err = s.Recv(); err == nil {
				out = append(out, fmt.Sprintf("%s %s", c.GetStream(), c.GetData()))
			}
		}
		if err == io.EOF {
			err = nil
		}
		return out, err
	}
	for _, c := range []struct {
		name string
		req  *managementv1.LogsRequest
		want []string
	}{
		{"all", &managementv1.LogsRequest{}, []string{"STREAM_STDOUT one\n", "STREAM_STDERR two\n"}},
		{"tail", &managementv1.LogsRequest{Tail: "1"}, []string{"STREAM_STDERR two\n"}},
		{"tail none", &managementv1.LogsRequest{Tail: "0"}, nil},
		{"since", &managementv1.LogsRequest{Since: "2027-01-01T00:00:00Z"}, nil},
		{"until", &managementv1.LogsRequest{Until: "1000"}, nil},
		{"timestamps", &managementv1.LogsRequest{Timestamps: true, Tail: "1"}, []string{"STREAM_STDERR 2026-01-02T03:04:05.000006000Z two\n"}},
	} {
		if got, err := read(c.req); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	for _, r := range []*managementv1.LogsRequest{{Tail: "x"}, {Since: "soon"}, {Until: "1 fortnight"}} {
		if _, err := read(r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
}

func TestLogsFollowUntilTheModuleEnds(t *testing.T) {
	f := serve(t, "edgeAgent")
	must(t, f.manager.Create(t.Context(), module.Spec{Name: "temp", Image: "reg/a:1"}))
	must(t, f.manager.Start(t.Context(), "temp"))
	f.Write("temp", runtime.Stdout, "one\n")
	s, err := f.modules.Logs(t.Context(), &managementv1.LogsRequest{Name: "temp", Follow: true})
	must(t, err)
	if c, err := s.Recv(); err != nil || string(c.GetData()) != "one\n" {
		t.Fatalf("%v, %v", c, err)
	}
	f.Write("temp", runtime.Stdout, "two\n")
	if c, err := s.Recv(); err != nil || string(c.GetData()) != "two\n" {
		t.Fatalf("%v, %v", c, err)
	}
	f.Exit("temp", 0)
	if c, err := s.Recv(); err != io.EOF {
		t.Fatalf("%v, %v", c, err)
	}
}

func TestWatch(t *testing.T) {
	f := serve(t, "edgeAgent")
	s, err := f.modules.Watch(t.Context(), &managementv1.WatchRequest{})
	must(t, err)
	if _, err := s.Header(); err != nil {
		t.Fatal(err)
	}
	must(t, f.manager.Create(t.Context(), module.Spec{Name: "temp", Image: "reg/a:1"}))
	must(t, f.manager.Start(t.Context(), "temp"))
	f.Exit("temp", 7)
	must(t, f.manager.Delete(t.Context(), "temp"))
	for _, want := range []string{"KIND_CREATED temp 0", "KIND_STARTED temp 0", "KIND_EXITED temp 7", "KIND_REMOVED temp 0"} {
		e, err := s.Recv()
		must(t, err)
		if got := fmt.Sprint(e.GetKind(), " ", e.GetName(), " ", e.GetExitCode()); got != want || e.GetTime().AsTime().IsZero() {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestInfo(t *testing.T) {
	f := serve(t, "edgeAgent")
	i, err := f.system.GetInfo(t.Context(), &managementv1.GetInfoRequest{})
	must(t, err)
	if i.GetVersion() != "1.2.3" || i.GetServerVersion() != "1.0" || i.GetOsType() != "linux" || i.GetCpus() == 0 || i.GetTotalMemory() < 1e6 ||
		i.GetKernelRelease() == "" || i.GetAdditional()["site"] != "x" || i.GetDeviceId() != "edge1" || i.GetIothubHostname() != "hub" || i.GetHostname() != "gw" {
		t.Errorf("%v", i)
	}
}
