package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// line is a registry that answers each request with what next gives, a piece at a time.
type line struct{ next func() (int, error) }

func (l line) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(l)}, nil
}

func (l line) Read(p []byte) (int, error) {
	n, err := l.next()
	return min(n, len(p)), err
}

func newPull(stall time.Duration, have *atomic.Int64) (*containerd.Pull, *bytes.Buffer) {
	log := &bytes.Buffer{}
	handler := slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	return containerd.NewPull("reg.example.com/a:1", slog.New(handler), stall, func(context.Context, string) int64 { return have.Load() }), log
}

var (
	layerOne = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Size: 1000}
	layerTwo = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Size: 3000}
)

func get(t *testing.T, ctx context.Context, p *containerd.Pull, next func() (int, error)) error {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://reg.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.Metered(line{next}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 1<<10)
	for {
		if _, err := resp.Body.Read(buf); err != nil {
			return err
		}
	}
}

// TestPullTellsHowItGoesOn: a line for each ten seconds in which bytes came, none for
// others, and one at the end.
func TestPullTellsHowItGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var have atomic.Int64
		p, log := newPull(2*time.Minute, &have)
		ctx := p.Watch(t.Context())
		p.Expect(layerOne, layerTwo)
		p.Begin("one", layerOne)
		p.End("one", layerOne, true)
		p.Begin("two", layerTwo)
		time.Sleep(500 * time.Millisecond) // so that no byte comes just when a line is due
		read := 0
		err := get(t, ctx, p, func() (int, error) {
			if read == 25 {
				return 0, io.EOF
			}
			time.Sleep(time.Second)
			read++
			have.Add(100)
			return 100, nil
		})
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // nothing is asked for: it is unpacked
		p.End("two", layerTwo, true)
		if ctx.Err() != nil {
			t.Fatal("a pull that waits for nobody is ended:", context.Cause(ctx))
		}
		p.Close()
		p.Succeeded(t.Context())
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		want := []string{"fetched=1900 total=4000 layers=1/2", "fetched=2900 total=4000 layers=1/2", "fetched=3500 total=4000 layers=1/2", `msg="image pulled" image=reg.example.com/a:1 bytes=2500 took=1h0m25.5s`}
		if len(lines) != len(want) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), log)
		}
		for i, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %d: %s, want %s", i+1, lines[i], w)
			}
		}
	})
}

func TestPullWithoutProgressFails(t *testing.T) {
	for _, tc := range []struct {
		name  string
		pause time.Duration // between two bytes
		fails bool
	}{
		{"nothing for two minutes", 3 * time.Minute, true},
		{"a byte a minute", time.Minute, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var have atomic.Int64
				have.Store(1 << 20)
				p, _ := newPull(2*time.Minute, &have)
				ctx := p.Watch(t.Context())
				p.Expect(layerOne, layerTwo)
				p.Begin("two", layerTwo)
				began, read := time.Now(), 0
				err := get(t, ctx, p, func() (int, error) {
					if read++; read > 10 {
						return 0, io.EOF
					}
					timer := time.NewTimer(tc.pause)
					defer timer.Stop()
					select {
					case <-timer.C:
						return 1, nil
					case <-ctx.Done():
						return 0, ctx.Err()
					}
				})
				p.End("two", layerTwo, false)
				took := time.Since(began)
				p.Close()
				cause := p.Cause(ctx, err)
				if !tc.fails {
					if !errors.Is(cause, io.EOF) {
						t.Errorf("%v", cause)
					}
					return
				}
				if !errors.Is(cause, runtime.ErrUnavailable) || !strings.Contains(cause.Error(), "nothing for 2m0s, after 1.0 MiB of 4 KiB") {
					t.Errorf("%v", cause)
				}
				if took < 2*time.Minute || took > 3*time.Minute {
					t.Errorf("after %s", took)
				}
			})
		})
	}
}

func TestNoBlobIsBegunAfterTheEndOfAPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var have atomic.Int64
		p, _ := newPull(time.Minute, &have)
		p.Watch(t.Context())
		if !p.Begin("one", layerOne) {
			t.Fatal("not begun")
		}
		closed := make(chan struct{})
		go func() { p.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("closed while a blob is fetched")
		default:
		}
		if p.Begin("two", layerTwo) {
			t.Error("begun after the end")
		}
		p.End("one", layerOne, false)
		<-closed
	})
}

func TestRoomForAnImage(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		content, layers string
		fetch, unpack   int64
		refused         bool
	}{
		{dir, dir, 1, 1, false},
		{dir, dir, math.MaxInt64 / 4, 0, true},
		{dir, dir, 0, math.MaxInt64 / 4, true},
		{"/dev/shm", dir, 0, math.MaxInt64 / 4, true},
		{"", "", math.MaxInt64 / 4, 0, false},
		{dir + "/missing", dir + "/missing", math.MaxInt64 / 4, 0, false},
	} {
		err := containerd.Fits(tc.content, tc.layers, tc.fetch, tc.unpack)
		if errors.Is(err, runtime.ErrNoSpace) != tc.refused || !tc.refused && err != nil {
			t.Errorf("%+v: %v", tc, err)
		}
		if tc.refused && !strings.Contains(err.Error(), dir) {
			t.Errorf("%+v does not name the place: %v", tc, err)
		}
	}
}

func TestFullDiskIsTold(t *testing.T) {
	for _, full := range []error{
		syscall.ENOSPC, fmt.Errorf("write: %w", syscall.EDQUOT),
		errors.New("failed to send write: write /var/lib/containerd/x: no space left on device: unknown"),
	} {
		if !containerd.OutOfSpace(full) {
			t.Errorf("%v is not told", full)
		}
	}
	for _, other := range []error{nil, io.EOF, syscall.EIO} {
		if containerd.OutOfSpace(other) {
			t.Errorf("%v is taken for a full disk", other)
		}
	}
}
