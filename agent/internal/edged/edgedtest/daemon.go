// Package edgedtest is a security daemon in memory, for tests: containers that
// start and stop at once, identities, encryption. Daemon is used directly by tests
// in virtual time; Serve puts the same daemon behind the gRPC services.
package edgedtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
)

// ErrUnknown is returned for a module that does not exist.
var ErrUnknown = errors.New("no such module")

// Daemon is the state. Its methods may be called from any goroutine.
type Daemon struct {
	mu         sync.Mutex
	containers map[string]*container
	identities map[string]launch.Identity
	generation int
	calls      []string
	fail       func(call string) error
	watchers   map[chan struct{}]bool
	broken     func(image string) bool
	held       map[string]chan struct{} // pulls of these modules wait
	silent     bool
	contents   map[string]string // of images whose names were moved
	kept       []string          // hashes of images
}

type container struct {
	plan.Engine
	spec launch.Spec
}

// New returns a daemon with the agent's own container and the identities of the
// system modules, as a freshly provisioned device has them.
func New(agentImage string) *Daemon {
	d := &Daemon{
		containers: map[string]*container{}, watchers: map[chan struct{}]bool{},
		identities: map[string]launch.Identity{
			"$edgeAgent": {ModuleID: "$edgeAgent", ManagedBy: "IotEdge", Generation: "g-agent"},
			"$edgeHub":   {ModuleID: "$edgeHub", ManagedBy: "IotEdge", Generation: "g-hub"},
		},
	}
	d.containers["edgeAgent"] = &container{Engine: plan.Engine{
		Name: "edgeAgent", Image: agentImage, ImageHash: "sha256:" + agentImage, State: plan.Running, Started: time.Now().UTC(),
		Labels: map[string]string{plan.LabelOptions: "{}", plan.LabelEnv: "{}"},
	}}
	return d
}

// FailWith makes f decide which calls fail; nil: none. Calls are written as in
// Calls.
func (d *Daemon) FailWith(f func(call string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = f
}

// Calls returns the calls that change something since the last Calls, for
// instance "create m".
func (d *Daemon) Calls() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

// Exit ends a module with a code.
func (d *Daemon) Exit(name string, code int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endLocked(name, code)
}

func (d *Daemon) endLocked(name string, code int) {
	c := d.containers[name]
	if c == nil || c.State != plan.Running {
		return
	}
	c.State, c.ExitCode, c.Exited = plan.Stopped, code, time.Now().UTC()
	if code != 0 {
		c.State = plan.Failed
	}
	d.notifyLocked()
}

// Set changes a container at will; it is made when absent.
func (d *Daemon) Set(e plan.Engine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.containers[e.Name] = &container{Engine: e}
	d.notifyLocked()
}

// Forget removes a container behind the agent's back.
func (d *Daemon) Forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.containers, name)
	d.notifyLocked()
}

// Spec returns what a container was made from.
func (d *Daemon) Spec(name string) (launch.Spec, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, ok := d.containers[name]
	if !ok {
		return launch.Spec{}, false
	}
	return c.spec, true
}

// State returns a container's state, "" when there is none.
func (d *Daemon) State(name string) plan.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c, ok := d.containers[name]; ok {
		return c.State
	}
	return ""
}

// SetIdentity adds or replaces an identity in the registry.
func (d *Daemon) SetIdentity(id launch.Identity) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identities[id.ModuleID] = id
}

// IdentityIDs lists the registry, sorted.
func (d *Daemon) IdentityIDs() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.identities))
}

func (d *Daemon) notifyLocked() {
	for c := range d.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// begin records a call and decides whether it fails.
func (d *Daemon) beginLocked(call string) error {
	d.calls = append(d.calls, call)
	return d.failLocked(call)
}

func (d *Daemon) failLocked(call string) error {
	if d.fail == nil {
		return nil
	}
	return d.fail(call)
}

// Silence leaves calls for the modules without an answer from now on.
func (d *Daemon) Silence() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent = true
}

// Modules lists the containers, sorted by name.
func (d *Daemon) Modules(ctx context.Context) ([]plan.Engine, error) {
	d.mu.Lock()
	silent := d.silent
	d.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failLocked("list"); err != nil {
		return nil, err
	}
	var list []plan.Engine
	for _, name := range slices.Sorted(maps.Keys(d.containers)) {
		list = append(list, d.containers[name].Engine)
	}
	return list, nil
}

// Platform describes a host.
func (d *Daemon) Platform(context.Context) (report.Platform, error) {
	return report.Platform{OS: "linux", Architecture: "x86_64", Version: "1.0.0"}, nil
}

// Pull records the call, and waits while pulls of the module are held.
func (d *Daemon) Pull(ctx context.Context, s launch.Spec) error {
	d.mu.Lock()
	err := d.beginLocked("pull " + s.Name)
	held := d.held[s.Name]
	d.mu.Unlock()
	if held == nil || err != nil {
		return err
	}
	select {
	case <-held:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// HoldPull makes pulls of a module wait until release is called.
func (d *Daemon) HoldPull(module string) (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := make(chan struct{})
	if d.held == nil {
		d.held = map[string]chan struct{}{}
	}
	d.held[module] = c
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.held, module)
		close(c)
	}
}

// MoveImage lets the name of an image stand for other content. What it stood for is gone
// unless it is kept.
func (d *Daemon) MoveImage(image, content string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.contents == nil {
		d.contents = map[string]string{}
	}
	d.contents[image] = content
}

// hashLocked is the hash of the image that s asks for.
func (d *Daemon) hashLocked(s launch.Spec) (string, error) {
	now := s.Image
	if content := d.contents[s.Image]; content != "" {
		now = content
	}
	now = "sha256:" + now
	if s.ImageHash == "" || s.ImageHash == now || slices.Contains(d.kept, s.ImageHash) {
		return cmp.Or(s.ImageHash, now), nil
	}
	return "", fmt.Errorf("no image %s", s.ImageHash)
}

// KeepImages takes the list of images that stay.
func (d *Daemon) KeepImages(_ context.Context, hashes []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failLocked("keep"); err != nil {
		return err
	}
	d.kept = slices.Clone(hashes)
	return nil
}

// Kept returns the hashes of the images that stay.
func (d *Daemon) Kept() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.kept)
}

// BreakImages makes containers whose image, by its content, f names end with code 1 at
// once. The content is the name unless that was moved.
func (d *Daemon) BreakImages(f func(image string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = f
}

// Create makes a container.
func (d *Daemon) Create(_ context.Context, s launch.Spec) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginLocked("create " + s.Name); err != nil {
		return err
	}
	if _, ok := d.containers[s.Name]; ok {
		return fmt.Errorf("%s exists", s.Name)
	}
	return d.makeLocked(s)
}

func (d *Daemon) makeLocked(s launch.Spec) error {
	hash, err := d.hashLocked(s)
	if err != nil {
		return err
	}
	labels := map[string]string{plan.LabelImage: s.Image}
	if l, ok := s.CreateOptions["Labels"].(map[string]any); ok {
		for k, v := range l {
			labels[k], _ = v.(string)
		}
	}
	d.containers[s.Name] = &container{spec: s, Engine: plan.Engine{
		Name: s.Name, Image: s.Image, ImageHash: hash, State: plan.Stopped, Labels: labels,
	}}
	d.notifyLocked()
	return nil
}

// Update replaces a container; the agent's own stays as it runs but for its image
// and labels.
func (d *Daemon) Update(_ context.Context, s launch.Spec, start bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginLocked("update " + s.Name); err != nil {
		return err
	}
	if _, ok := d.containers[s.Name]; !ok {
		return fmt.Errorf("update %s: %w", s.Name, ErrUnknown)
	}
	if err := d.makeLocked(s); err != nil {
		return err
	}
	if start {
		d.startLocked(s.Name)
	}
	return nil
}

func (d *Daemon) startLocked(name string) {
	c := d.containers[name]
	if c.State != plan.Running {
		c.State, c.Started, c.ExitCode = plan.Running, time.Now().UTC(), 0
		d.notifyLocked()
		if d.broken != nil && d.broken(strings.TrimPrefix(c.ImageHash, "sha256:")) {
			d.endLocked(name, 1)
		}
	}
}

// Start starts a container.
func (d *Daemon) Start(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginLocked("start " + name); err != nil {
		return err
	}
	if _, ok := d.containers[name]; !ok {
		return fmt.Errorf("start %s: %w", name, ErrUnknown)
	}
	d.startLocked(name)
	return nil
}

// Stop ends a container with exit code 0.
func (d *Daemon) Stop(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginLocked("stop " + name); err != nil {
		return err
	}
	if _, ok := d.containers[name]; !ok {
		return fmt.Errorf("stop %s: %w", name, ErrUnknown)
	}
	d.endLocked(name, 0)
	return nil
}

// Restart stops and starts a container.
func (d *Daemon) Restart(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginLocked("restart " + name); err != nil {
		return err
	}
	if _, ok := d.containers[name]; !ok {
		return fmt.Errorf("restart %s: %w", name, ErrUnknown)
	}
	d.endLocked(name, 0)
	d.startLocked(name)
	return nil
}

// Remove removes a container.
func (d *Daemon) Remove(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginLocked("remove " + name); err != nil {
		return err
	}
	delete(d.containers, name)
	d.notifyLocked()
	return nil
}

// Identities lists the registry.
func (d *Daemon) Identities(context.Context) ([]launch.Identity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failLocked("identities"); err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(d.identities), func(a, b launch.Identity) int {
		return strings.Compare(a.ModuleID, b.ModuleID)
	}), nil
}

// CreateIdentity adds an identity with a generation of its own.
func (d *Daemon) CreateIdentity(_ context.Context, id, managedBy string) (launch.Identity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginLocked("identity+ " + id); err != nil {
		return launch.Identity{}, err
	}
	d.generation++
	made := launch.Identity{ModuleID: id, ManagedBy: managedBy, Generation: fmt.Sprintf("g-%d", d.generation)}
	d.identities[id] = made
	return made, nil
}

// UpdateIdentity returns the identity as it is.
func (d *Daemon) UpdateIdentity(_ context.Context, id launch.Identity) (launch.Identity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginLocked("identity= " + id.ModuleID); err != nil {
		return launch.Identity{}, err
	}
	return d.identities[id.ModuleID], nil
}

// DeleteIdentity deletes an identity.
func (d *Daemon) DeleteIdentity(_ context.Context, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginLocked("identity- " + id); err != nil {
		return err
	}
	delete(d.identities, id)
	return nil
}

// Watch returns a channel that gets a signal after changes; end it with cancel.
func (d *Daemon) Watch() (changed <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watchers[c] = true
	return c, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watchers, c)
	}
}

// Watchers counts those who watch.
func (d *Daemon) Watchers() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.watchers)
}
