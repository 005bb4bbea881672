package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

const (
	// reportInterval is the time between two lines about a pull that goes on.
	reportInterval = 10 * time.Second
	// defaultStallTimeout is how long a registry may send nothing.
	defaultStallTimeout = 2 * time.Minute
)

// pull is a pull under way: what has come of the image, and the watch over it. It is
// safe for concurrent use.
type pull struct {
	image string
	log   *slog.Logger
	// stall is how long nothing may come while something is asked for.
	stall time.Duration
	// offset tells how much of an unfinished blob the engine has.
	offset func(ctx context.Context, ref string) int64

	began  time.Time
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the watch has ended

	mu     sync.Mutex
	closed bool
	blobs  sync.WaitGroup // fetches of single blobs; begun only while not closed
	// Of the image: bytes and layers, and what is on the device of them.
	size          int64
	layers, ready int
	finished      int64
	unfinished    map[string]bool // ingests
	// Of the network: bytes that have come, requests and reads that wait, and when the
	// last of either ended.
	moved   int64
	waiting int
	last    time.Time
}

// watch begins to log the pull's progress, and to end the context that it returns when
// there is none for too long. Close it.
func (p *pull) watch(ctx context.Context) context.Context {
	p.began, p.done = time.Now(), make(chan struct{})
	p.last = p.began
	p.unfinished = make(map[string]bool)
	ctx, p.cancel = context.WithCancelCause(ctx)
	go func() {
		defer close(p.done)
		p.run(ctx)
	}()
	return ctx
}

func (p *pull) run(ctx context.Context) {
	report, look := time.NewTicker(reportInterval), time.NewTicker(p.stall/4)
	defer report.Stop()
	defer look.Stop()
	var told int64
	for {
		select {
		case <-report.C:
			if s := p.state(ctx); s.moved > told {
				told = s.moved
				p.log.InfoContext(ctx, "pull goes on", "image", p.image, "fetched", s.have, "total", s.size, "layers", s.of)
			}
		case <-look.C:
			if p.stalled() {
				s := p.state(ctx)
				p.cancel(fmt.Errorf("%w: the registry has sent nothing for %s, after %s of %s", runtime.ErrUnavailable,
					p.stall, byteSize(s.have), byteSize(s.size)))
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// close ends the watch and waits until nothing is fetched any more.
func (p *pull) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel(nil)
	<-p.done
	p.blobs.Wait()
}

// cause returns why the pull was ended, if the watch did it, else err.
func (p *pull) cause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, runtime.ErrUnavailable) {
		return cause
	}
	return err
}

// succeeded says what the pull took. One that found everything is not worth a line.
func (p *pull) succeeded(ctx context.Context) {
	s := p.state(ctx)
	level := slog.LevelInfo
	if s.ready == 0 {
		level = slog.LevelDebug
	}
	p.log.Log(ctx, level, "image pulled", "image", p.image, "bytes", s.moved, "took", time.Since(p.began).Round(time.Millisecond))
}

// progress is a look at a pull.
type progress struct {
	have, size, moved int64
	ready             int
	of                string // layers, as "2/5"
}

func (p *pull) state(ctx context.Context) progress {
	p.mu.Lock()
	s := progress{have: p.finished, size: p.size, moved: p.moved, ready: p.ready, of: strconv.Itoa(p.ready) + "/" + strconv.Itoa(p.layers)}
	var refs []string
	for ref := range p.unfinished {
		refs = append(refs, ref)
	}
	p.mu.Unlock()
	for _, ref := range refs {
		s.have += p.offset(ctx, ref)
	}
	return s
}

// expect takes note of what an image consists of.
func (p *pull) expect(parts []ocispec.Descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range parts {
		p.size += d.Size
		if images.IsLayerType(d.MediaType) {
			p.layers++
		}
	}
}

// begin takes note that a blob is being fetched; it says no after close. end must
// follow.
func (p *pull) begin(ref string, d ocispec.Descriptor) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.blobs.Add(1)
	if isPart(d) {
		p.unfinished[ref] = true
	}
	return true
}

// end says whether the blob is complete.
func (p *pull) end(ref string, d ocispec.Descriptor, complete bool) {
	defer p.blobs.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.unfinished, ref)
	if !complete || !isPart(d) {
		return
	}
	p.finished += d.Size
	if images.IsLayerType(d.MediaType) {
		p.ready++
	}
}

// isPart tells the parts of an image from the documents that list them.
func isPart(d ocispec.Descriptor) bool {
	return !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType)
}

// stalled reports whether something is waited for, and nothing came for too long. The
// time in which nothing is asked for, as while layers are unpacked, does not count.
func (p *pull) stalled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting > 0 && time.Since(p.last) >= p.stall
}

func (p *pull) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting++; p.waiting == 1 {
		p.last = time.Now()
	}
}

func (p *pull) came(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
	p.moved += int64(n)
	p.last = time.Now()
}

// metered counts what a pull gets from its registry.
type metered struct {
	http.RoundTripper
	pull *pull
}

// RoundTrip implements http.RoundTripper.
func (m metered) RoundTrip(req *http.Request) (*http.Response, error) {
	m.pull.wait()
	resp, err := m.RoundTripper.RoundTrip(req)
	m.pull.came(0)
	if err != nil {
		return nil, err
	}
	resp.Body = meteredBody{resp.Body, m.pull}
	return resp, nil
}

type meteredBody struct {
	io.ReadCloser
	pull *pull
}

// Read implements io.Reader.
func (b meteredBody) Read(buf []byte) (int, error) {
	b.pull.wait()
	n, err := b.ReadCloser.Read(buf)
	b.pull.came(n)
	return n, err
}

// byteSize is a number of bytes for people.
func byteSize(n int64) string {
	const kib, mib, gib = 1 << 10, 1 << 20, 1 << 30
	switch {
	case n >= gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= mib:
		return fmt.Sprintf("%.1f MiB", float64(n)/mib)
	}
	return fmt.Sprintf("%d KiB", (n+kib-1)/kib)
}
