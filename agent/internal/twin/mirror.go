package twin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Source is the cloud as the mirror uses it. Both calls fail when there is no
// connection.
type Source interface {
	Twin(ctx context.Context) (iothub.TwinProperties, error)
	PatchReported(ctx context.Context, patch json.RawMessage) error
}

// Options of a mirror.
type Options struct {
	Refresh time.Duration // full pull this often (ConfigRefreshFrequencySecs)
	Timeout time.Duration // of one pull or report
	Log     *slog.Logger
}

const (
	// Reconnects cause one pull in this time.
	reconnectPause = 30 * time.Second
	firstRetry     = 2 * time.Second
	lastRetry      = 60 * time.Second
)

// Mirror is the copy. Its methods may be called from any goroutine, Run and Report
// from one each. The functions named Handle return at once; they are made for the
// callbacks of a client.
type Mirror struct {
	src     Source
	opts    Options
	wake    chan struct{}
	changed chan struct{}

	mu        sync.Mutex // guards what follows
	desired   json.RawMessage
	version   int64
	reported  json.RawMessage
	have      bool // one pull succeeded
	connected bool
	seq       int       // counts changes of desired by push
	pullAt    time.Time // zero: no pull is wanted
	lastPull  time.Time // on a reconnect
}

// New returns an empty mirror.
func New(src Source, opts Options) *Mirror {
	return &Mirror{src: src, opts: opts, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
}

// Changed receives after the desired section may have changed. It holds one
// signal; several changes may give one.
func (m *Mirror) Changed() <-chan struct{} { return m.changed }

// Desired returns the desired section with its "$version"; ok is false before the
// first pull.
func (m *Mirror) Desired() (section json.RawMessage, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.desired, m.have
}

// HandleDesired takes a pushed change of the desired section.
func (m *Mirror) HandleDesired(patch json.RawMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq++
	v, ok := iothub.Version(patch)
	if m.have && ok && v == m.version+1 {
		if merged, err := m.mergeLocked(patch, v); err == nil {
			m.desired, m.version = merged, v
			signal(m.changed)
			return
		}
	}
	m.pullAt = time.Now()
	signal(m.wake)
}

func (m *Mirror) mergeLocked(patch json.RawMessage, v int64) (json.RawMessage, error) {
	merged, err := iothub.MergePatch(m.desired, patch)
	if err != nil {
		return nil, err
	}
	return iothub.WithVersion(merged, v)
}

// HandleConnection takes a change of the connection. Each new connection, also one
// that follows another without a gap, wants a pull, because changes may have been
// missed, but not more than one in 30 s.
func (m *Mirror) HandleConnection(up bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if up {
		at := time.Now()
		if next := m.lastPull.Add(reconnectPause); !m.lastPull.IsZero() && next.After(at) {
			at = next
		}
		m.lastPull = at
		if m.pullAt.IsZero() || m.pullAt.After(at) {
			m.pullAt = at
		}
		signal(m.wake)
	}
	m.connected = up
}

// Run pulls when a pull is wanted and at every refresh, until ctx ends.
func (m *Mirror) Run(ctx context.Context) error {
	refresh := time.NewTicker(m.opts.Refresh)
	defer refresh.Stop()
	pull := time.NewTimer(0)
	defer pull.Stop()
	retry := firstRetry
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-refresh.C:
			m.want(time.Now())
		case <-m.wake:
		case <-pull.C:
		}
		if m.due() {
			if err := m.pull(ctx); err != nil && ctx.Err() == nil {
				m.opts.Log.Warn("twin not read", "error", err, "retry", retry)
				m.want(time.Now().Add(retry))
				retry = min(retry*2, lastRetry)
			} else {
				retry = firstRetry
			}
		}
		m.mu.Lock()
		if !m.pullAt.IsZero() && m.connected {
			pull.Reset(time.Until(m.pullAt))
		} else {
			pull.Stop()
		}
		m.mu.Unlock()
	}
}

func (m *Mirror) want(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pullAt.IsZero() || m.pullAt.After(at) {
		m.pullAt = at
	}
}

// due takes the wish for a pull whose time has come.
func (m *Mirror) due() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.connected || m.pullAt.IsZero() || time.Now().Before(m.pullAt) {
		return false
	}
	m.pullAt = time.Time{}
	return true
}

func (m *Mirror) pull(ctx context.Context) error {
	m.mu.Lock()
	seq := m.seq
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, m.opts.Timeout)
	defer cancel()
	t, err := m.src.Twin(ctx)
	if err != nil {
		return err
	}
	version, ok := iothub.Version(t.Desired)
	if !ok {
		return fmt.Errorf("desired section without $version")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.have && m.seq != seq {
		// A change came in while the twin was under way; which of the two is
		// newer cannot be told, so ask again.
		m.pullAt = time.Now()
		return nil
	}
	m.desired, m.version, m.reported, m.have = t.Desired, version, t.Reported, true
	signal(m.changed)
	return nil
}

// Report makes the cloud's reported section equal to doc by sending the
// difference. Nothing is sent when there is none, before the first pull and
// without a connection; the next Report makes up for it.
func (m *Mirror) Report(ctx context.Context, doc json.RawMessage) error {
	m.mu.Lock()
	base, ok := m.reported, m.have && m.connected
	m.mu.Unlock()
	if !ok {
		return nil
	}
	patch, err := iothub.DiffPatch(base, doc)
	if err != nil {
		return m.replace(ctx, doc)
	}
	if string(patch) == "{}" {
		return nil
	}
	if err := m.send(ctx, patch); err != nil {
		return err
	}
	return m.setReported(base, patch)
}

// replace deletes every section and sends the whole document, for when the
// cloud's section makes no sense.
func (m *Mirror) replace(ctx context.Context, doc json.RawMessage) error {
	var sections map[string]json.RawMessage
	if err := json.Unmarshal(doc, &sections); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	for k := range sections {
		sections[k] = json.RawMessage("null")
	}
	empty, err := json.Marshal(sections)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := m.send(ctx, empty); err != nil {
		return err
	}
	if err := m.send(ctx, doc); err != nil {
		return err
	}
	return m.setReported(json.RawMessage("{}"), doc)
}

func (m *Mirror) send(ctx context.Context, patch json.RawMessage) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.Timeout)
	defer cancel()
	if err := m.src.PatchReported(ctx, patch); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// setReported notes what the cloud has now. A pull that ended in between may have
// seen the section before or after the patch; merging fits both.
func (m *Mirror) setReported(base, patch json.RawMessage) error {
	merged, err := iothub.MergePatch(base, patch)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reported = merged
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ReportPart changes some members of the reported section and leaves the others.
// It follows the same rules as Report.
func (m *Mirror) ReportPart(ctx context.Context, patch json.RawMessage) error {
	m.mu.Lock()
	base, ok := m.reported, m.have && m.connected
	m.mu.Unlock()
	if !ok {
		return nil
	}
	doc, err := iothub.MergePatch(base, patch)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return m.Report(ctx, doc)
}
