// Package runtimetest has an engine that lives in memory, for tests of what
// stands on runtime.Runtime, and the suite that it and the real engine pass.
package runtimetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Fake is an engine without containers. Its modules run the little programs of
// the suite's image (see Program) and else wait to be stopped. All methods may be
// called concurrently.
type Fake struct {
	// Now is the clock; set it before use.
	Now func() time.Time

	mu        sync.Mutex
	registry  map[string]string // image -> id
	local     map[string]string
	kept      map[string]string // id -> name that it had
	modules   map[string]*fakeModule
	processes map[int]string
	failures  map[string]error
	pulls     []runtime.PullRequest
	lastPid   int
	instances int
	subs      map[chan runtime.Event]bool
}

type fakeModule struct {
	state    runtime.State
	spec     runtime.Spec
	stubborn bool
	rebound  []string
	log      []runtime.LogEntry
	changed  chan struct{} // closed and replaced when log or state changes
}

var _ runtime.Runtime = (*Fake)(nil)

// New returns an engine whose registry has these images.
func New(images ...string) *Fake {
	f := &Fake{
		Now:       time.Now,
		registry:  make(map[string]string),
		local:     make(map[string]string),
		kept:      make(map[string]string),
		modules:   make(map[string]*fakeModule),
		processes: make(map[int]string),
		failures:  make(map[string]error),
		lastPid:   1 << 22, // above the pids of real processes
		subs:      make(map[chan runtime.Event]bool),
	}
	for _, image := range images {
		f.AddImage(image)
	}
	return f
}

// AddImage puts an image into the registry and returns its id.
func (f *Fake) AddImage(image string) string { return f.MoveImage(image, image) }

// MoveImage puts an image with other content under a name of the registry and returns
// its id.
func (f *Fake) MoveImage(image, content string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := sha256.Sum256([]byte(content))
	id := "sha256:" + hex.EncodeToString(sum[:])
	f.registry[image] = id
	return id
}

// Fail makes the named method ("Pull", "Start", …) fail with err until it is
// called with nil.
func (f *Fake) Fail(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures[method] = err
}

// Exit ends a running module from the inside.
func (f *Fake) Exit(name string, code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.modules[name]; m != nil && m.state.Status == runtime.StatusRunning {
		f.exitLocked(m, code)
	}
}

// Write adds a line, with its newline, to a module's log.
func (f *Fake) Write(name string, stream runtime.Stream, line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.modules[name]; m != nil {
		f.writeLocked(m, stream, line)
	}
}

// SetStatus puts a module into a state that it cannot reach by the methods.
func (f *Fake) SetStatus(name string, status runtime.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.modules[name]; m != nil {
		m.state.Status = status
	}
}

// SetHealth changes how a running module feels.
func (f *Fake) SetHealth(name string, health runtime.Health, output string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.modules[name]; m != nil {
		m.state.Health, m.state.HealthOutput = health, output
		f.publishLocked(runtime.Event{Type: runtime.EventHealth, Module: name, Time: f.Now(), Health: health})
	}
}

// AddProcess makes a pid, such as the test's own, belong to a module while that
// runs.
func (f *Fake) AddProcess(pid int, module string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.processes[pid] = module
}

// Spec returns what a module was created from.
func (f *Fake) Spec(name string) (runtime.Spec, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.modules[name]
	if m == nil {
		return runtime.Spec{}, false
	}
	return m.spec, true
}

// Pulls returns the requests so far.
func (f *Fake) Pulls() []runtime.PullRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.pulls)
}

// begin locks the engine; the caller unlocks it. A cancelled context or an
// injected failure is returned.
func (f *Fake) begin(ctx context.Context, method string) error {
	f.mu.Lock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.failures[method]
}

// Pull implements runtime.Images.
func (f *Fake) Pull(ctx context.Context, req runtime.PullRequest) (runtime.Image, error) {
	err := f.begin(ctx, "Pull")
	defer f.mu.Unlock()
	if err != nil {
		return runtime.Image{}, err
	}
	f.pulls = append(f.pulls, req)
	id, ok := f.presentLocked(req.Image, req.ID)
	local := req.Policy == runtime.PullNever || req.ID != ""
	if !local {
		id, ok = f.registry[req.Image]
	}
	if !ok {
		host, _, _ := strings.Cut(req.Image, "/")
		return runtime.Image{}, &runtime.PullError{Image: req.Image, Registry: host, Err: runtime.ErrImageNotFound}
	}
	if !local {
		if have := f.local[req.Image]; have != id && f.usedLocked(have) {
			f.kept[have] = req.Image
		}
		f.local[req.Image] = id
	}
	return runtime.Image{ID: id, Digest: id, Names: []string{req.Image}}, nil
}

// ListImages implements runtime.Images.
func (f *Fake) ListImages(ctx context.Context) ([]runtime.Image, error) {
	err := f.begin(ctx, "ListImages")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var out []runtime.Image
	for _, name := range slices.Sorted(maps.Keys(f.local)) {
		out = append(out, runtime.Image{ID: f.local[name], Digest: f.local[name], Names: []string{name}})
	}
	for _, id := range slices.Sorted(maps.Keys(f.kept)) {
		out = append(out, runtime.Image{ID: id, Digest: id, Names: []string{f.kept[id] + "@" + id}})
	}
	return out, nil
}

// presentLocked finds an image that was pulled, by name, or by id if there is one.
func (f *Fake) presentLocked(name, id string) (string, bool) {
	have, ok := f.local[name]
	if id == "" {
		return have, ok
	}
	return id, have == id || f.kept[id] == name
}

func (f *Fake) usedLocked(id string) bool {
	for _, m := range f.modules {
		if m.state.ImageID == id {
			return true
		}
	}
	return false
}

// ReleaseImages implements runtime.Images.
func (f *Fake) ReleaseImages(ctx context.Context, keep []string) error {
	err := f.begin(ctx, "ReleaseImages")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	maps.DeleteFunc(f.kept, func(id, _ string) bool { return !f.usedLocked(id) && !slices.Contains(keep, id) })
	return nil
}

// RemoveImage implements runtime.Images.
func (f *Fake) RemoveImage(ctx context.Context, id string) error {
	err := f.begin(ctx, "RemoveImage")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	for name, m := range f.modules {
		if m.state.ImageID == id {
			return fmt.Errorf("%w: %s by module %s", runtime.ErrInUse, id, name)
		}
	}
	maps.DeleteFunc(f.local, func(_, have string) bool { return have == id })
	delete(f.kept, id)
	return nil
}

// Create implements runtime.Modules.
func (f *Fake) Create(ctx context.Context, spec runtime.Spec) error {
	err := f.begin(ctx, "Create")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	if err := runtime.CheckName(spec.Name); err != nil {
		return err
	}
	if f.modules[spec.Name] != nil {
		return fmt.Errorf("%w: %s", runtime.ErrExists, spec.Name)
	}
	id, ok := f.presentLocked(spec.Image, spec.ImageID)
	if !ok {
		return fmt.Errorf("%w: %s", runtime.ErrImageNotFound, spec.Image)
	}
	f.instances++
	labels := maps.Clone(spec.Options.Labels)
	if labels == nil {
		labels = make(map[string]string)
	}
	labels[runtime.LabelOwner], labels[runtime.LabelOriginalImage] = runtime.Owner, spec.Image
	f.modules[spec.Name] = &fakeModule{
		spec: spec,
		state: runtime.State{
			Name: spec.Name, Image: spec.Image, ImageID: id, ImageDigest: id,
			Instance: fmt.Sprint(f.instances), Labels: labels, Status: runtime.StatusCreated, Created: f.Now(),
		},
		changed: make(chan struct{}),
	}
	f.publishLocked(runtime.Event{Type: runtime.EventCreated, Module: spec.Name, Time: f.Now()})
	return nil
}

func (f *Fake) moduleLocked(name string) (*fakeModule, error) {
	m := f.modules[name]
	if m == nil {
		return nil, fmt.Errorf("%w: %s", runtime.ErrNotFound, name)
	}
	return m, nil
}

// Start implements runtime.Modules.
func (f *Fake) Start(ctx context.Context, name string) error {
	err := f.begin(ctx, "Start")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	m, err := f.moduleLocked(name)
	if err != nil || m.state.Status == runtime.StatusRunning {
		return err
	}
	f.lastPid++
	m.state.Status, m.state.Pid, m.state.Started = runtime.StatusRunning, f.lastPid, f.Now()
	m.state.Address = fmt.Sprintf("172.30.0.%d", f.lastPid%250+2)
	f.publishLocked(runtime.Event{Type: runtime.EventStarted, Module: name, Time: f.Now()})
	f.runLocked(m)
	return nil
}

// runLocked does what the module's program does.
func (f *Fake) runLocked(m *fakeModule) {
	p := parseProgram(m.spec.Options.Cmd)
	for _, line := range p.Say {
		f.writeLocked(m, runtime.Stdout, line+"\n")
	}
	for _, line := range p.Complain {
		f.writeLocked(m, runtime.Stderr, line+"\n")
	}
	m.stubborn = p.Stubborn
	if p.Exit >= 0 {
		f.exitLocked(m, p.Exit)
	}
}

// Stop implements runtime.Modules. A stubborn module is killed at once.
func (f *Fake) Stop(ctx context.Context, name string, _ time.Duration) error {
	err := f.begin(ctx, "Stop")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	m, err := f.moduleLocked(name)
	if err != nil || m.state.Status != runtime.StatusRunning {
		return err
	}
	if m.stubborn {
		f.exitLocked(m, 137)
	} else {
		f.exitLocked(m, 0)
	}
	return nil
}

func (f *Fake) exitLocked(m *fakeModule, code int) {
	m.state.Status, m.state.Pid, m.state.Address = runtime.StatusExited, 0, ""
	m.state.Exited, m.state.ExitCode = f.Now(), code
	f.publishLocked(runtime.Event{Type: runtime.EventExited, Module: m.state.Name, Time: f.Now(), ExitCode: code})
	f.changedLocked(m)
}

// Rebind implements runtime.Modules; Rebound tells what it was asked for.
func (f *Fake) Rebind(ctx context.Context, name string, paths ...string) error {
	err := f.begin(ctx, "Rebind")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	m, err := f.moduleLocked(name)
	if err == nil && m.state.Status == runtime.StatusRunning {
		m.rebound = append(m.rebound, paths...)
	}
	return err
}

// Rebound returns the paths that were bound anew in a module since it was created.
func (f *Fake) Rebound(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.modules[name]; m != nil {
		return slices.Clone(m.rebound)
	}
	return nil
}

// Remove implements runtime.Modules.
func (f *Fake) Remove(ctx context.Context, name string) error {
	err := f.begin(ctx, "Remove")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	m := f.modules[name]
	if m == nil {
		return nil
	}
	if m.state.Status == runtime.StatusRunning {
		f.exitLocked(m, 137)
	}
	delete(f.modules, name)
	f.publishLocked(runtime.Event{Type: runtime.EventRemoved, Module: name, Time: f.Now()})
	return nil
}

// Get implements runtime.Modules.
func (f *Fake) Get(ctx context.Context, name string) (runtime.State, error) {
	err := f.begin(ctx, "Get")
	defer f.mu.Unlock()
	if err != nil {
		return runtime.State{}, err
	}
	m, err := f.moduleLocked(name)
	if err != nil {
		return runtime.State{}, err
	}
	return m.snapshot(), nil
}

// List implements runtime.Modules.
func (f *Fake) List(ctx context.Context) ([]runtime.State, error) {
	err := f.begin(ctx, "List")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	out := make([]runtime.State, 0, len(f.modules))
	for _, name := range slices.Sorted(maps.Keys(f.modules)) {
		out = append(out, f.modules[name].snapshot())
	}
	return out, nil
}

func (m *fakeModule) snapshot() runtime.State {
	s := m.state
	s.Labels = maps.Clone(s.Labels)
	return s
}

// Info implements runtime.Observer.
func (f *Fake) Info(ctx context.Context) (runtime.Info, error) {
	err := f.begin(ctx, "Info")
	defer f.mu.Unlock()
	return runtime.Info{Name: "fake", Version: "1.0"}, err
}

// Stats implements runtime.Observer: every running module has used one second of
// processor time and a mebibyte.
func (f *Fake) Stats(ctx context.Context) ([]runtime.Stats, error) {
	err := f.begin(ctx, "Stats")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var out []runtime.Stats
	for _, name := range slices.Sorted(maps.Keys(f.modules)) {
		m := f.modules[name]
		if m.state.Status != runtime.StatusRunning {
			continue
		}
		out = append(out, runtime.Stats{
			Module: name, Instance: m.state.Instance, Read: f.Now(), Processes: 1,
			CPUTotal: 1e9, CPUUser: 6e8, CPUKernel: 4e8, MemoryUsage: 1 << 20, MemoryLimit: 1 << 30,
			Memory:   map[string]uint64{"inactive_file": 4096},
			Networks: map[string]runtime.NetworkStats{"eth0": {RxBytes: 10, TxBytes: 20}},
			Block:    []runtime.BlockStats{{Major: 254, Op: "Read", Value: 512}},
		})
	}
	return out, nil
}

// ModuleOfPid implements runtime.Observer.
func (f *Fake) ModuleOfPid(ctx context.Context, pid int) (runtime.Process, error) {
	err := f.begin(ctx, "ModuleOfPid")
	defer f.mu.Unlock()
	if err != nil {
		return runtime.Process{}, err
	}
	for name, m := range f.modules {
		if m.state.Status == runtime.StatusRunning && (m.state.Pid == pid || f.processes[pid] == name) {
			return runtime.Process{
				Pid: pid, StartTicks: uint64(m.state.Pid), Module: name,
				Instance: m.state.Instance, Labels: maps.Clone(m.state.Labels),
			}, nil
		}
	}
	return runtime.Process{}, fmt.Errorf("%w: process %d", runtime.ErrNotFound, pid)
}

func (f *Fake) writeLocked(m *fakeModule, stream runtime.Stream, line string) {
	m.log = append(m.log, runtime.LogEntry{Time: f.Now(), Stream: stream, Line: []byte(line)})
	f.changedLocked(m)
}

func (f *Fake) changedLocked(m *fakeModule) {
	close(m.changed)
	m.changed = make(chan struct{})
}

// Logs implements runtime.Observer.
func (f *Fake) Logs(ctx context.Context, name string, opts runtime.LogOptions) iter.Seq2[runtime.LogEntry, error] {
	return func(yield func(runtime.LogEntry, error) bool) {
		err := f.begin(ctx, "Logs")
		m := f.modules[name]
		f.mu.Unlock()
		if err == nil && m == nil {
			err = fmt.Errorf("%w: %s", runtime.ErrNotFound, name)
		}
		if err != nil {
			yield(runtime.LogEntry{}, err)
			return
		}
		next := -1
		for {
			f.mu.Lock()
			if next < 0 {
				next = tailStart(len(m.log), opts.Tail)
			}
			fresh := slices.Clone(m.log[next:])
			changed, runs := m.changed, m.state.Status == runtime.StatusRunning
			f.mu.Unlock()
			next += len(fresh)
			for _, e := range fresh {
				if !opts.Until.IsZero() && !e.Time.Before(opts.Until) {
					return
				}
				if !e.Time.Before(opts.Since) && !yield(e, nil) {
					return
				}
			}
			if !opts.Follow || !runs {
				return
			}
			select {
			case <-ctx.Done():
				yield(runtime.LogEntry{}, ctx.Err())
				return
			case <-changed:
			}
		}
	}
}

func tailStart(n, tail int) int {
	switch {
	case tail == 0:
		return 0
	case tail < 0:
		return n
	}
	return max(0, n-tail)
}

// Events implements runtime.Observer.
func (f *Fake) Events(ctx context.Context) <-chan runtime.Event {
	ch := make(chan runtime.Event, runtime.EventBacklog)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs[ch] = true
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.dropLocked(ch)
	})
	return ch
}

func (f *Fake) dropLocked(ch chan runtime.Event) {
	if f.subs[ch] {
		delete(f.subs, ch)
		close(ch)
	}
}

func (f *Fake) publishLocked(e runtime.Event) {
	for ch := range f.subs {
		select {
		case ch <- e:
		default:
			f.dropLocked(ch)
		}
	}
}
