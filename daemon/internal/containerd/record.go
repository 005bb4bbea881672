package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

const (
	// extension holds what a module was created from. Labels are too short for it.
	extension     = "io.breakwater.module"
	extensionType = "io.breakwater/module.v1"
	// labelRun holds the last run.
	labelRun = "io.breakwater.run"
	// labelHealth holds how the module felt when that last changed.
	labelHealth = "io.breakwater.health"

	// lostExitCode is the exit code of a module whose end nobody saw.
	lostExitCode = 255
)

// module is the content of the extension.
type module struct {
	Image       string            `json:"image"`
	ImageID     string            `json:"imageId"`
	ImageDigest string            `json:"imageDigest"`
	MediaType   string            `json:"mediaType,omitempty"` // of ImageDigest
	ImageSize   int64             `json:"imageSize,omitempty"` // of ImageDigest
	Instance    string            `json:"instance"`
	Created     time.Time         `json:"created"`
	Labels      map[string]string `json:"labels"`
	Record      ocimap.Record     `json:"record"`
}

// lastRun is the content of labelRun. Running with no task means that the end was
// not seen. Times are not compared, since a device's clock may jump.
type lastRun struct {
	Running  bool       `json:"running,omitempty"`
	Started  time.Time  `json:"started,omitzero"`
	Exited   time.Time  `json:"exited,omitzero"`
	ExitCode int        `json:"exitCode,omitempty"`
	Address  netip.Addr `json:"address,omitzero"`
	Address6 netip.Addr `json:"address6,omitzero"`
}

// ended is the run after its end.
func (l lastRun) ended(at time.Time, code int) lastRun {
	return lastRun{Started: l.Started, Exited: at, ExitCode: code}
}

func (m module) any() (typeurl.Any, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("module record: %w", err)
	}
	return &anypb.Any{TypeUrl: extensionType, Value: data}, nil
}

// stored is a container as it is in the store.
type stored struct {
	name   string
	module module
	last   lastRun
	health runHealth
}

func decode(c containers.Container) (stored, error) {
	s := stored{name: c.ID}
	ext, ok := c.Extensions[extension]
	if !ok || ext.GetTypeUrl() != extensionType {
		return s, fmt.Errorf("container %s has no module record", c.ID)
	}
	if err := json.Unmarshal(ext.GetValue(), &s.module); err != nil {
		return s, fmt.Errorf("module record of %s: %w", c.ID, err)
	}
	if text := c.Labels[labelRun]; text != "" {
		if err := json.Unmarshal([]byte(text), &s.last); err != nil {
			return s, fmt.Errorf("last run of %s: %w", c.ID, err)
		}
	}
	if text := c.Labels[labelHealth]; text != "" {
		if err := json.Unmarshal([]byte(text), &s.health); err != nil {
			return s, fmt.Errorf("health of %s: %w", c.ID, err)
		}
	}
	return s, nil
}

// load finds a module's container. A container of somebody else is ErrNotFound.
func (r *Runtime) load(ctx context.Context, name string) (client.Container, stored, error) {
	c, err := r.client.LoadContainer(ctx, name)
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return nil, stored{}, fmt.Errorf("%w: %s", runtime.ErrNotFound, name)
	}
	if err != nil {
		return nil, stored{}, fmt.Errorf("module %s: %w", name, translate(err))
	}
	info, err := c.Info(ctx, client.WithoutRefreshedMetadata)
	if err != nil {
		return nil, stored{}, fmt.Errorf("module %s: %w", name, translate(err))
	}
	if info.Labels[runtime.LabelOwner] != runtime.Owner {
		return nil, stored{}, fmt.Errorf("%w: %s", runtime.ErrNotFound, name)
	}
	s, err := decode(info)
	return c, s, err
}

// loadAll finds all modules. Containers with an unreadable record are logged and
// left out, so that one cannot take the whole device down.
func (r *Runtime) loadAll(ctx context.Context) ([]stored, error) {
	filter := fmt.Sprintf("labels.%q==%q", runtime.LabelOwner, runtime.Owner)
	all, err := r.client.ContainerService().List(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", translate(err))
	}
	out := make([]stored, 0, len(all))
	for _, c := range all {
		s, err := decode(c)
		if err != nil {
			r.log.Warn("container left out", "container", c.ID, "error", err)
			continue
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b stored) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

func (r *Runtime) saveRun(ctx context.Context, c client.Container, last lastRun) error {
	data, err := json.Marshal(last)
	if err != nil {
		return fmt.Errorf("last run of %s: %w", c.ID(), err)
	}
	if _, err := c.SetLabels(ctx, map[string]string{labelRun: string(data)}); err != nil {
		return fmt.Errorf("last run of %s: %w", c.ID(), translate(err))
	}
	return nil
}

// Get implements runtime.Modules.
func (r *Runtime) Get(ctx context.Context, name string) (runtime.State, error) {
	ctx = r.ctx(ctx)
	_, s, err := r.load(ctx, name)
	if err != nil {
		return runtime.State{}, err
	}
	reply, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: name})
	if err != nil && !errdefs.IsNotFound(fromGRPC(err)) {
		return runtime.State{}, fmt.Errorf("module %s: %w", name, translate(fromGRPC(err)))
	}
	return state(s, reply.GetProcess()), nil
}

// List implements runtime.Modules.
func (r *Runtime) List(ctx context.Context) ([]runtime.State, error) {
	ctx = r.ctx(ctx)
	all, err := r.loadAll(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := r.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", translate(fromGRPC(err)))
	}
	byName := make(map[string]*task.Process)
	for _, p := range reply.GetTasks() {
		byName[p.GetID()] = p
	}
	out := make([]runtime.State, 0, len(all))
	for _, s := range all {
		out = append(out, state(s, byName[s.name]))
	}
	return out, nil
}

// state joins what is stored with the task, which is nil if there is none.
func state(s stored, p *task.Process) runtime.State {
	m := s.module
	st := runtime.State{
		Name: s.name, Image: m.Image, ImageID: m.ImageID, ImageDigest: m.ImageDigest,
		Instance: m.Instance, Labels: m.Labels, Created: m.Created,
		Started: s.last.Started, Exited: s.last.Exited, ExitCode: s.last.ExitCode,
		Status: runtime.StatusCreated,
	}
	if !st.Started.IsZero() {
		st.Status = runtime.StatusExited
	}
	if p == nil {
		return st
	}
	switch p.GetStatus() {
	case task.Status_CREATED: // about to be started
	case task.Status_RUNNING, task.Status_PAUSED, task.Status_PAUSING:
		st.Status, st.Pid = runtime.StatusRunning, int(p.GetPid())
		st.Address, st.Address6 = address(s.last.Address), address(s.last.Address6)
		feels := s.healthOf()
		st.Health, st.HealthOutput = feels.Status, feels.Output
		if p.GetStatus() != task.Status_RUNNING {
			st.Status = runtime.StatusPaused
		}
	case task.Status_STOPPED:
		st.Status = runtime.StatusExited
		if s.last.Running { // its end is about to be recorded
			st.ExitCode, st.Exited = int(p.GetExitStatus()), p.GetExitedAt().AsTime()
		}
	default:
		st.Status = runtime.StatusUnknown
	}
	return st
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
