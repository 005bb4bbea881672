package edgedtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// Server is a Daemon behind its gRPC services on one unix socket.
type Server struct {
	URI    string
	Daemon *Daemon
	Sealer *Sealer
	Logs   []*managementv1.LogChunk // of every module

	grpc *grpc.Server
}

// Serve starts a server that ends with the test. The socket's path is short enough
// for every system.
func Serve(t testing.TB, d *Daemon) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "edged")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as the socket in a container, whose daemon went away
	s := &Server{URI: "unix://" + path, Daemon: d, Sealer: &Sealer{Key: "k"}, grpc: grpc.NewServer()}
	managementv1.RegisterModulesServer(s.grpc, modules{s: s})
	managementv1.RegisterIdentitiesServer(s.grpc, identities{d: d})
	managementv1.RegisterSystemServer(s.grpc, system{})
	workloadv1.RegisterWorkloadServer(s.grpc, workload{s: s})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.grpc.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return s
}

// Stop ends the server; its socket stays and refuses connections.
func (s *Server) Stop() { s.grpc.Stop() }

type modules struct {
	managementv1.UnimplementedModulesServer
	s *Server
}

func fail(err error) error {
	if errors.Is(err, ErrUnknown) {
		return status.Error(codes.NotFound, err.Error())
	}
	if errors.Is(err, launch.ErrTakenBack) {
		return status.Error(codes.Aborted, err.Error())
	}
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func (m modules) List(ctx context.Context, _ *managementv1.ListRequest) (*managementv1.ListResponse, error) {
	list, err := m.s.Daemon.Modules(ctx)
	if err != nil {
		return nil, fail(err)
	}
	res := &managementv1.ListResponse{}
	for _, e := range list {
		labels := map[string]any{}
		for k, v := range e.Labels {
			labels[k] = v
		}
		settings, err := structpb.NewStruct(map[string]any{
			"image": "engine/" + e.Image, "imageHash": e.ImageHash, "createOptions": map[string]any{"Labels": labels},
		})
		if err != nil {
			return nil, err
		}
		d := &managementv1.ModuleDetails{Id: "id", Name: e.Name, Type: "docker",
			Config: &managementv1.ModuleConfig{Settings: settings},
			Status: &managementv1.ModuleStatus{RuntimeStatus: &managementv1.RuntimeStatus{Status: string(e.State)}}}
		if !e.Started.IsZero() {
			at := e.Started.Format(time.RFC3339Nano)
			d.Status.StartTime = &at
		}
		if !e.Exited.IsZero() {
			d.Status.ExitStatus = &managementv1.ExitStatus{ExitTime: e.Exited.Format(time.RFC3339Nano), StatusCode: strconv.Itoa(e.ExitCode)}
		}
		res.Modules = append(res.Modules, d)
	}
	return res, nil
}

// spec reads what the agent sent, as a daemon does.
func spec(m *managementv1.ModuleSpec) (launch.Spec, error) {
	s := launch.Spec{Name: m.GetName(), Type: m.GetType(), PullPolicy: m.GetImagePullPolicy()}
	b, err := m.GetConfig().GetSettings().MarshalJSON()
	if err != nil {
		return s, err
	}
	var settings struct {
		Image         string
		Digest        string
		ImageHash     string
		CreateOptions map[string]any
		Auth          *struct{ Serveraddress, Username, Password string }
	}
	if err := json.Unmarshal(b, &settings); err != nil {
		return s, err
	}
	s.Image, s.Digest, s.ImageHash, s.CreateOptions = settings.Image, settings.Digest, settings.ImageHash, settings.CreateOptions
	if a := settings.Auth; a != nil {
		s.Auth = &manifest.Registry{Address: a.Serveraddress, Username: a.Username, Password: manifest.Secret(a.Password)}
	}
	seen := map[string]bool{}
	for _, e := range m.GetConfig().GetEnv() {
		if seen[e.GetKey()] {
			return s, fmt.Errorf("%s is given twice", e.GetKey())
		}
		seen[e.GetKey()] = true
		s.Env = append(s.Env, launch.EnvVar{Key: e.GetKey(), Value: e.GetValue()})
	}
	return s, nil
}

func (m modules) Create(ctx context.Context, r *managementv1.CreateRequest) (*managementv1.ModuleDetails, error) {
	s, err := spec(r.GetSpec())
	if err == nil {
		err = m.s.Daemon.Create(ctx, s)
	}
	return &managementv1.ModuleDetails{Name: s.Name}, fail(err)
}

func (m modules) Update(ctx context.Context, r *managementv1.UpdateRequest) (*managementv1.ModuleDetails, error) {
	s, err := spec(r.GetSpec())
	if err == nil {
		err = m.s.Daemon.Update(ctx, s, r.GetStart())
	}
	return &managementv1.ModuleDetails{Name: s.Name}, fail(err)
}

func (m modules) PrepareUpdate(ctx context.Context, r *managementv1.PrepareUpdateRequest) (*managementv1.PrepareUpdateResponse, error) {
	s, err := spec(r.GetSpec())
	if err == nil {
		err = m.s.Daemon.Pull(ctx, s)
	}
	return &managementv1.PrepareUpdateResponse{}, fail(err)
}

func (m modules) KeepImages(ctx context.Context, r *managementv1.KeepImagesRequest) (*managementv1.KeepImagesResponse, error) {
	return &managementv1.KeepImagesResponse{}, fail(m.s.Daemon.KeepImages(ctx, r.GetImageHashes()))
}

func (m modules) Start(ctx context.Context, r *managementv1.StartRequest) (*managementv1.StartResponse, error) {
	return &managementv1.StartResponse{}, fail(m.s.Daemon.Start(ctx, r.GetName()))
}

func (m modules) Stop(ctx context.Context, r *managementv1.StopRequest) (*managementv1.StopResponse, error) {
	return &managementv1.StopResponse{}, fail(m.s.Daemon.Stop(ctx, r.GetName()))
}

func (m modules) Restart(ctx context.Context, r *managementv1.RestartRequest) (*managementv1.RestartResponse, error) {
	return &managementv1.RestartResponse{}, fail(m.s.Daemon.Restart(ctx, r.GetName()))
}

func (m modules) Delete(ctx context.Context, r *managementv1.DeleteRequest) (*managementv1.DeleteResponse, error) {
	if m.s.Daemon.State(r.GetName()) == "" {
		return nil, fail(ErrUnknown)
	}
	return &managementv1.DeleteResponse{}, fail(m.s.Daemon.Remove(ctx, r.GetName()))
}

func (m modules) Logs(r *managementv1.LogsRequest, stream grpc.ServerStreamingServer[managementv1.LogChunk]) error {
	if m.s.Daemon.State(r.GetName()) == "" {
		return fail(ErrUnknown)
	}
	for _, c := range m.s.Logs {
		if err := stream.Send(c); err != nil {
			return err
		}
	}
	return nil
}

func (m modules) Watch(_ *managementv1.WatchRequest, stream grpc.ServerStreamingServer[managementv1.ModuleEvent]) error {
	changed, cancel := m.s.Daemon.Watch()
	defer cancel()
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		select {
		case <-changed:
			if err := stream.Send(&managementv1.ModuleEvent{Kind: managementv1.ModuleEvent_KIND_LOST, Time: timestamppb.Now()}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

type identities struct {
	managementv1.UnimplementedIdentitiesServer
	d *Daemon
}

func document(id launch.Identity) *managementv1.Identity {
	return &managementv1.Identity{ModuleId: id.ModuleID, ManagedBy: id.ManagedBy, GenerationId: id.Generation, AuthType: "sas"}
}

func (s identities) List(ctx context.Context, _ *managementv1.ListIdentitiesRequest) (*managementv1.ListIdentitiesResponse, error) {
	list, err := s.d.Identities(ctx)
	if err != nil {
		return nil, fail(err)
	}
	res := &managementv1.ListIdentitiesResponse{}
	for _, id := range list {
		res.Identities = append(res.Identities, document(id))
	}
	return res, nil
}

func (s identities) Create(ctx context.Context, r *managementv1.CreateIdentityRequest) (*managementv1.Identity, error) {
	id, err := s.d.CreateIdentity(ctx, r.GetModuleId(), r.GetManagedBy())
	return document(id), fail(err)
}

func (s identities) Update(ctx context.Context, r *managementv1.UpdateIdentityRequest) (*managementv1.Identity, error) {
	id, err := s.d.UpdateIdentity(ctx, launch.Identity{ModuleID: r.GetModuleId(), Generation: r.GetGenerationId(), ManagedBy: r.GetManagedBy()})
	return document(id), fail(err)
}

func (s identities) Delete(ctx context.Context, r *managementv1.DeleteIdentityRequest) (*managementv1.DeleteIdentityResponse, error) {
	return &managementv1.DeleteIdentityResponse{}, fail(s.d.DeleteIdentity(ctx, r.GetModuleId()))
}

type system struct {
	managementv1.UnimplementedSystemServer
}

func (system) GetInfo(context.Context, *managementv1.GetInfoRequest) (*managementv1.SystemInfo, error) {
	return &managementv1.SystemInfo{OsType: "linux", Architecture: "x86_64", Version: "1.2.3", Cpus: 2, TotalMemory: 1 << 30,
		OperatingSystem: "debian (12)", Additional: map[string]string{"site": "a;b"}}, nil
}

func (system) GetResources(context.Context, *managementv1.GetResourcesRequest) (*managementv1.SystemResources, error) {
	return &managementv1.SystemResources{HostUptime: 100, ProcessUptime: 50}, nil
}

type workload struct {
	workloadv1.UnimplementedWorkloadServer
	s *Server
}

func (workload) GetTrustBundle(context.Context, *workloadv1.GetTrustBundleRequest) (*workloadv1.TrustBundle, error) {
	return &workloadv1.TrustBundle{}, nil
}

func (w workload) Encrypt(ctx context.Context, r *workloadv1.EncryptRequest) (*workloadv1.EncryptResponse, error) {
	b, err := w.s.Sealer.Seal(ctx, r.GetPlaintext(), r.GetInitializationVector())
	return &workloadv1.EncryptResponse{Ciphertext: b}, fail(err)
}

func (w workload) Decrypt(ctx context.Context, r *workloadv1.DecryptRequest) (*workloadv1.DecryptResponse, error) {
	b, err := w.s.Sealer.Open(ctx, r.GetCiphertext(), r.GetInitializationVector())
	return &workloadv1.DecryptResponse{Plaintext: b}, fail(err)
}
