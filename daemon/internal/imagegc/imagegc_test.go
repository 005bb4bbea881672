package imagegc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/imagegc"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is an engine with images a, b and agent, all pulled and all but those left
// out noted as used now. Bubbles of virtual time begin on 2000-01-01 00:00 UTC.
type bench struct {
	*runtimetest.Fake
	t    *testing.T
	dir  string
	uses *imagegc.Uses
	log  lockedText
	ids  map[string]string

	mu  sync.Mutex
	bad map[string]error // of RemoveImage, by id
}

// lockedText is a text that several goroutines write and read.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// spoil makes RemoveImage of a named image fail, or not any more.
func (b *bench) spoil(name string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bad[b.ids[name]] = err
}

func newBench(t *testing.T, noted ...string) *bench {
	t.Helper()
	names := []string{"a", "b", "agent", "foreign"}
	b := &bench{Fake: runtimetest.New(names...), t: t, dir: filepath.Join(t.TempDir(), "gc"), ids: map[string]string{}, bad: map[string]error{}}
	var err error
	b.uses, err = imagegc.Open(b.dir, slog.New(slog.NewTextHandler(&b.log, nil)))
	must(t, err)
	for _, name := range names {
		img, err := b.Pull(t.Context(), runtime.PullRequest{Image: name})
		must(t, err)
		b.ids[name] = img.ID
		if slices.Contains(noted, name) {
			b.uses.Used(img.ID)
		}
	}
	return b
}

func (b *bench) RemoveImage(ctx context.Context, id string) error {
	b.mu.Lock()
	err := b.bad[id]
	b.mu.Unlock()
	if err != nil {
		return err
	}
	return b.Fake.RemoveImage(ctx, id)
}

// run collects until the returned function is called.
func (b *bench) run(change ...func(*imagegc.Options)) (stop func()) {
	o := imagegc.Options{
		Uses: b.uses, Engine: b, Agent: "agent", Days: 1, Location: time.UTC, MinAge: 7 * 24 * time.Hour,
		Kept: func() []string { return nil },
		Log:  slog.New(slog.NewTextHandler(&b.log, nil)),
	}
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- imagegc.Run(ctx, o) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	}
}

// at is a time of virtual life.
func at(day, hour, minute int) time.Time {
	return time.Date(2000, 1, day, hour, minute, 0, 0, time.UTC)
}

func until(when time.Time) {
	time.Sleep(time.Until(when))
	synctest.Wait()
}

func (b *bench) has(names ...string) {
	b.t.Helper()
	all, err := b.ListImages(b.t.Context())
	must(b.t, err)
	var got []string
	for _, img := range all {
		got = append(got, img.Names...)
	}
	if !slices.Equal(got, names) {
		b.t.Errorf("%s: images %v, want %v\n%s", time.Now().UTC().Format(time.DateTime), got, names, &b.log)
	}
}

func TestUnusedImagesAreRemovedInTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", "b", "agent")
		defer b.run(func(o *imagegc.Options) { o.Hour, o.Minute = 3, 30 })()
		until(at(4, 12, 0))
		b.uses.Used(b.ids["b"])
		until(at(8, 3, 29)) // a is seven days old since midnight
		b.has("a", "agent", "b", "foreign")
		until(at(8, 3, 31))
		b.has("agent", "b", "foreign")
		until(at(12, 3, 29))
		b.has("agent", "b", "foreign")
		until(at(12, 3, 31))
		b.has("agent", "foreign")
		until(at(31, 0, 0))
		b.has("agent", "foreign")
		text, err := os.ReadFile(filepath.Join(b.dir, "image_use"))
		must(t, err)
		if want := fmt.Sprintf("%s %d\n", b.ids["agent"], at(1, 0, 0).Unix()); string(text) != want {
			t.Errorf("file %q, want %q", text, want)
		}
	})
}

func TestRecurrenceOfSeveralDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a")
		defer b.run(func(o *imagegc.Options) { o.Days, o.MinAge, o.Hour = 3, 30*time.Hour, 1 })()
		until(at(1, 2, 0)) // the first time is the next 01:00; then every third day
		b.has("a", "agent", "b", "foreign")
		until(at(4, 0, 59))
		b.has("a", "agent", "b", "foreign")
		until(at(4, 1, 1))
		b.has("agent", "b", "foreign")
		b.uses.Used(b.ids["b"])
		until(at(7, 0, 59))
		b.has("agent", "b", "foreign")
		until(at(7, 1, 1))
		b.has("agent", "foreign")
	})
}

func TestLocalTimeCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a")
		defer b.run(func(o *imagegc.Options) { o.MinAge, o.Location = time.Hour, time.FixedZone("east", 5*3600) })()
		until(at(1, 18, 59)) // 23:59 there
		b.has("a", "agent", "b", "foreign")
		until(at(1, 19, 1))
		b.has("agent", "b", "foreign")
	})
}

func TestImagesOfContainersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", "b")
		must(t, b.Create(t.Context(), runtime.Spec{Name: "stopped", Image: "a"}))
		stop := b.run()
		until(at(20, 0, 0))
		b.has("a", "agent", "foreign")
		must(t, b.Remove(t.Context(), "stopped"))
		b.uses.Used(b.ids["a"]) // as the manager tells
		until(at(26, 0, 1))
		b.has("a", "agent", "foreign")
		until(at(27, 0, 1))
		b.has("agent", "foreign")
		stop()
	})
}

func TestKeptImagesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", "b")
		kept, err := imagegc.OpenKept(b.dir, slog.New(slog.DiscardHandler))
		must(t, err)
		must(t, kept.Set([]string{b.ids["a"]}))
		defer b.run(func(o *imagegc.Options) { o.Kept = kept.IDs })()
		until(at(10, 0, 0))
		b.has("a", "agent", "foreign")
		must(t, kept.Set(nil))
		until(at(11, 0, 1))
		b.has("agent", "foreign")
	})
}

func TestKeptImagesOutliveTheDaemon(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gc")
	var log lockedText
	open := func() *imagegc.Kept {
		k, err := imagegc.OpenKept(dir, slog.New(slog.NewTextHandler(&log, nil)))
		must(t, err)
		return k
	}
	must(t, open().Set([]string{"sha256:b", "sha256:a"}))
	if got := open().IDs(); !slices.Equal(got, []string{"sha256:b", "sha256:a"}) || log.String() != "" {
		t.Errorf("%q, log %q", got, log.String())
	}
	must(t, os.WriteFile(filepath.Join(dir, "kept"), []byte("[1"), 0o600))
	k := open()
	if got := k.IDs(); len(got) != 0 || !strings.Contains(log.String(), "not understood") {
		t.Errorf("%q, log %q", got, log.String())
	}
	must(t, os.RemoveAll(dir))
	if err := k.Set([]string{"sha256:c"}); err == nil || len(k.IDs()) != 0 {
		t.Errorf("%v, kept %q", err, k.IDs())
	}
}

func TestOneThatCannotBeRemovedStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", "b")
		b.spoil("a", errors.New("disk error"))
		defer b.run()()
		until(at(9, 0, 1))
		b.has("a", "agent", "foreign")
		if !strings.Contains(b.log.String(), "unused image stays") {
			t.Errorf("log %s", &b.log)
		}
		b.spoil("a", nil)
		until(at(10, 0, 1))
		b.has("agent", "foreign")
	})
}

func TestEngineThatIsAwayIsAskedAgain(t *testing.T) {
	for _, method := range []string{"List", "ListImages", "Pull"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, "a")
			defer b.run()()
			until(at(7, 23, 59))
			b.Fail(method, runtime.ErrUnavailable)
			until(at(8, 2, 30))
			b.Fail(method, nil)
			b.has("a", "agent", "b", "foreign")
			until(at(8, 3, 1))
			b.has("agent", "b", "foreign")
		})
	}
}

func TestBootstrapImageThatIsNotThereIsNoMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", "agent")
		defer b.run(func(o *imagegc.Options) { o.Agent = "elsewhere" })()
		until(at(9, 0, 1))
		b.has("b", "foreign")
	})
}

func TestUsesOutliveTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", "b")
		f, err := os.OpenFile(filepath.Join(b.dir, "image_use"), os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("half a line\n\nsha256:x -5\nsha256:gone 946684800\n")
		must(t, err)
		must(t, f.Close())
		b.uses, err = imagegc.Open(b.dir, slog.New(slog.DiscardHandler))
		must(t, err)
		defer b.run()()
		until(at(8, 0, 1))
		b.has("agent", "foreign")
		text, err := os.ReadFile(filepath.Join(b.dir, "image_use"))
		if err != nil || len(text) != 0 {
			t.Errorf("file %q, %v", text, err)
		}
		b.uses.Used("")
	})
}

func TestFileThatCannotBeWrittenStopsNothing(t *testing.T) {
	b := newBench(t)
	must(t, os.RemoveAll(b.dir))
	b.uses.Used("sha256:aa")
	if !strings.Contains(b.log.String(), "write image uses") {
		t.Errorf("log %q", &b.log)
	}
}
