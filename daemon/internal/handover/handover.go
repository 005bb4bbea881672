package handover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Trial says when a new agent is good.
type Trial struct {
	// Attempts is how often it is started. When it ends once more, it is taken back.
	Attempts int
	// Settle is how long it must have run when it asks for work, to be good.
	Settle time.Duration
	// Limit is how long one run may take until then.
	Limit time.Duration
}

// ErrTakenBack says that this agent was tried and taken back.
var ErrTakenBack = errors.New("taken back")

// Modules runs operations on the agent; *module.Manager does.
type Modules interface {
	Exclusive(ctx context.Context, name string, f func(module.Steps) error) error
	Later(ctx context.Context, name string, f func(module.Steps) error) error
	// ReleaseImages lets images go that Images does not list any more.
	ReleaseImages(ctx context.Context)
}

// Options configures Open. All fields are needed.
type Options struct {
	Modules Modules
	// File keeps the state.
	File string
	// Bootstrap makes the config's agent, to go back to when no other is known.
	Bootstrap func(ctx context.Context) (module.Spec, error)
	// LastWords returns the end of the agent's log, "" if there is none.
	LastWords func(ctx context.Context) string
	Trial     Trial
	Log       *slog.Logger
}

// Handover is safe for concurrent use. What changes the container is done by whoever
// holds the agent's lock of the module manager.
type Handover struct {
	opt Options

	mu      sync.Mutex
	record  record
	started time.Time // of the run on trial, as this process saw it; zero: none
	proved  bool      // that run has asked for work after Settle
	failed  string    // why the last replacement did not begin
	trouble string    // of the last attempt
}

// Open reads the state. A record that cannot be read counts as none: the agent that
// runs is left alone.
func Open(o Options) *Handover {
	r, err := load(o.File)
	if err != nil {
		o.Log.Error("the agent's last replacement is forgotten", "error", err)
	}
	return &Handover{opt: o, record: r}
}

// change changes the record, on disk first. With an error nothing has changed.
func (h *Handover) change(f func(*record)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.record
	f(&next)
	if err := save(h.opt.File, next); err != nil {
		return err
	}
	h.record = next
	return nil
}

// force changes the record even if the disk does not take it: going back must not
// depend on it.
func (h *Handover) force(f func(*record)) {
	if err := h.change(f); err != nil {
		h.opt.Log.Error("the agent's replacement is remembered in memory only", "error", err)
		h.mu.Lock()
		defer h.mu.Unlock()
		f(&h.record)
	}
}

func (h *Handover) state() record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.record
}

// Forget drops what is remembered, when the device has become another one.
func (h *Handover) Forget() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := os.Remove(h.opt.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the agent: %w", err)
	}
	h.record, h.started, h.failed = record{}, time.Time{}, ""
	return nil
}

// Made notes that the agent was made from the config, because there was none.
func (h *Handover) Made(spec module.Spec) {
	h.force(func(r *record) {
		r.Phase, r.Current, r.Good, r.Attempts = settled, agentOf(spec), nil, 0
	})
}

// Check refuses an agent that was taken back, with ErrTakenBack.
func (h *Handover) Check(spec module.Spec) error {
	key := agentOf(spec).key()
	for _, r := range h.state().Refused {
		if r.Key == key {
			return fmt.Errorf("%w: %s", ErrTakenBack, r)
		}
	}
	return nil
}

// Update begins to replace the agent and returns, because the agent cannot wait for its
// own end. It refuses what was taken back; other failures are told by Note. ctx bounds
// the work.
func (h *Handover) Update(ctx context.Context, spec module.Spec, start bool) error {
	if err := h.Check(spec); err != nil {
		return err
	}
	return h.opt.Modules.Later(ctx, module.Agent, func(s module.Steps) error {
		err := h.replace(ctx, s, spec, start)
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.failed = ""; err != nil {
			h.failed = fmt.Sprintf("the agent with image %s was not made: %v", spec.Image, err)
		}
		return err
	})
}

// Images are the ids of the images that the last good agent and the present one are made
// from. They are needed to go back, whatever their names have come to mean.
func (h *Handover) Images() []string {
	var ids []string
	r := h.state()
	for _, a := range []*agent{r.Good, r.Current} {
		if a != nil && a.ImageID != "" {
			ids = append(ids, a.ImageID)
		}
	}
	return ids
}

// replace brings the image, and only then gives up the old agent.
func (h *Handover) replace(ctx context.Context, s module.Steps, spec module.Spec, start bool) error {
	id, err := s.Fetch(ctx, spec)
	if err != nil {
		return err
	}
	st, err := s.Get(ctx)
	if err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return err
	}
	next := agentOf(spec)
	next.ImageID = id
	if r := h.state(); (r.Phase == switching || r.Phase == trial) && r.Current.key() == next.key() {
		return nil // it is on trial already
	}
	if err := h.change(func(r *record) {
		if r.Phase == settled {
			r.Good = r.Current.from(st)
		}
		r.Phase, r.Current, r.Attempts = switching, next, 0
	}); err != nil {
		return err
	}
	if start {
		h.attempt(ctx, s, true)
		return nil
	}
	if err := s.Replace(ctx, next.spec(), false); err != nil {
		return err
	}
	return h.change(func(r *record) { r.Phase = trial })
}

// attempt starts the new agent once more; anew makes its container. A failure counts
// as an end, unless the daemon ends: the next look decides.
func (h *Handover) attempt(ctx context.Context, s module.Steps, anew bool) {
	h.force(func(r *record) { r.Attempts++ })
	h.begin(time.Time{}, "")
	r := h.state()
	h.opt.Log.InfoContext(ctx, "starting the new agent", "image", r.Current.Image, "attempt", r.Attempts)
	var err error
	if anew {
		err = s.Replace(ctx, r.Current.spec(), true)
	} else {
		err = s.Start(ctx)
	}
	if err != nil && ctx.Err() != nil {
		h.force(func(r *record) { r.Attempts-- })
		return
	}
	if err != nil {
		h.opt.Log.ErrorContext(ctx, "the new agent does not start", "image", r.Current.Image, "error", err)
		h.begin(time.Time{}, err.Error())
		return
	}
	h.begin(time.Now(), "")
	if r.Phase == switching {
		h.force(func(r *record) { r.Phase = trial })
	}
}

func (h *Handover) begin(at time.Time, trouble string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.started, h.proved, h.trouble = at, false, trouble
}

// Asked is told of each call by which the agent asks for work.
func (h *Handover) Asked() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.record.Phase == trial && !h.started.IsZero() && time.Since(h.started) >= h.opt.Trial.Settle {
		h.proved = true
	}
}

// OnTrial tells whether Look has something to do.
func (h *Handover) OnTrial() bool { return h.state().Phase != settled }

// Look moves a replacement on, and tells whether there was one. The caller holds the
// agent's lock; st is its state unless it is missing. It fails while the old agent
// cannot be brought back.
func (h *Handover) Look(ctx context.Context, s module.Steps, st runtime.State, missing bool) (bool, error) {
	runs := !missing && st.Status == runtime.StatusRunning
	switch h.state().Phase {
	case settled:
		return false, nil
	case returning:
		return true, h.back(ctx, s)
	case trial:
		if runs {
			return true, h.judge(ctx, s, st)
		}
	}
	again := h.state()
	if again.Attempts >= h.opt.Trial.Attempts {
		return true, h.giveUp(ctx, s, h.ended(again.Attempts, st, missing))
	}
	h.attempt(ctx, s, again.Phase == switching || missing || st.Status == runtime.StatusUnknown)
	return true, nil
}

// ended says what became of the last attempt.
func (h *Handover) ended(attempts int, st runtime.State, missing bool) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := fmt.Sprintf("it was started %d times", attempts)
	switch {
	case h.trouble != "":
		return text + ", the last time with the error: " + h.trouble
	case missing || st.Status != runtime.StatusExited:
		return text
	}
	return fmt.Sprintf("%s, and ended the last time with exit code %d", text, st.ExitCode)
}

// judge looks at a new agent that runs.
func (h *Handover) judge(ctx context.Context, s module.Steps, st runtime.State) error {
	h.mu.Lock()
	if h.started.IsZero() {
		h.started = time.Now() // of another process of the daemon
	}
	proved, runs := h.proved, time.Since(h.started)
	h.mu.Unlock()
	well := st.Health == "" || st.Health == runtime.Healthy
	switch {
	case proved && well:
		h.opt.Log.InfoContext(ctx, "the new agent is good", "image", st.Image)
		h.force(func(r *record) { r.Phase, r.Good, r.Attempts, r.Refused = settled, r.Current, 0, nil })
		h.opt.Modules.ReleaseImages(ctx)
		return nil
	case runs < h.opt.Trial.Limit:
		return nil
	case !well:
		return h.giveUp(ctx, s, fmt.Sprintf("its health check says %q after %v", st.Health, h.opt.Trial.Limit))
	}
	return h.giveUp(ctx, s, fmt.Sprintf("it runs, but has not asked the daemon for work between %v and %v after its start", h.opt.Trial.Settle, h.opt.Trial.Limit))
}

// giveUp refuses the new agent and goes back to the old one.
func (h *Handover) giveUp(ctx context.Context, s module.Steps, reason string) error {
	if words := h.opt.LastWords(ctx); words != "" {
		reason += "; its last words: " + words
	}
	r := h.state()
	if r.Good != nil && r.Good.key() == r.Current.key() {
		// There is no other. The watchdog goes on trying.
		h.opt.Log.ErrorContext(ctx, "the agent is no good, and there is no other", "image", r.Current.Image, "reason", reason)
		h.force(func(r *record) { r.Phase, r.Attempts = settled, 0 })
		return nil
	}
	h.opt.Log.ErrorContext(ctx, "the new agent is taken back", "image", r.Current.Image, "reason", reason)
	h.force(func(r *record) {
		r.Phase = returning
		r.refuse(refusal{Key: r.Current.key(), Image: r.Current.Image, Reason: reason, Since: time.Now().UTC().Truncate(time.Second)})
	})
	return h.back(ctx, s)
}

// back makes the last good agent again.
func (h *Handover) back(ctx context.Context, s module.Steps) error {
	var spec module.Spec
	var err error
	if good := h.state().Good; good != nil {
		spec = good.spec()
	} else if spec, err = h.opt.Bootstrap(ctx); err != nil {
		return fmt.Errorf("prepare the agent to go back to: %w", err)
	}
	wish := agentOf(spec)
	err = s.Replace(ctx, wish.spec(), true)
	if errors.Is(err, runtime.ErrImageNotFound) {
		spec.Pull, spec.ImageID = runtime.PullOnCreate, ""
		err = s.Replace(ctx, spec, true)
	}
	if err != nil {
		return fmt.Errorf("go back to the agent with image %s: %w", spec.Image, err)
	}
	h.opt.Log.InfoContext(ctx, "the last good agent runs again", "image", spec.Image)
	h.begin(time.Time{}, "")
	h.force(func(r *record) { r.Phase, r.Current, r.Attempts = settled, wish, 0 })
	return nil
}

// Note is what an operator should know of the agent's replacement, "" for nothing.
func (h *Handover) Note() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.record.Phase == trial || h.record.Phase == switching:
		return fmt.Sprintf("on trial since its replacement, attempt %d of %d", h.record.Attempts, h.opt.Trial.Attempts)
	case h.failed != "":
		return h.failed
	case len(h.record.Refused) > 0:
		return h.record.Refused[len(h.record.Refused)-1].String()
	}
	return ""
}
