package modlog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/modlog"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock gives every record its own second.
func clock() func() time.Time {
	t := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time { t = t.Add(time.Second); return t }
}

func second(n int) time.Time { return time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC) }

func write(t *testing.T, dir string, s modlog.Settings, now func() time.Time, stdout, stderr string) {
	t.Helper()
	w, err := modlog.NewWriter(dir, s, now)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{stdout, stderr} {
		in := [2]io.Reader{strings.NewReader(""), strings.NewReader("")}
		in[i] = strings.NewReader(text)
		if err := modlog.Copy(w, in[0], in[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir string, opts runtime.LogOptions) []string {
	t.Helper()
	ended := make(chan struct{})
	close(ended)
	var got []string
	for e, err := range modlog.Read(t.Context(), dir, opts, ended) {
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%d:%s", e.Stream, e.Line)
		if e.Partial {
			s += "…"
		}
		got = append(got, s)
	}
	return got
}

func equal(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLinesKeepStreamAndOrder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	write(t, dir, modlog.Default, clock(), "a\n\nb\xff\nend", "oops\n")
	equal(t, read(t, dir, runtime.LogOptions{}), "1:a\n", "1:\n", "1:b\xff\n", "1:end", "2:oops\n")
}

func TestLongLineIsSplit(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("x", modlog.MaxLine) + strings.Repeat("y", modlog.MaxLine) + "z"
	write(t, dir, modlog.Default, clock(), long+"\n", "")
	equal(t, read(t, dir, runtime.LogOptions{}),
		"1:"+long[:modlog.MaxLine]+"…", "1:"+long[modlog.MaxLine:2*modlog.MaxLine]+"…", "1:z\n")
}

func TestSelection(t *testing.T) {
	dir := t.TempDir()
	// Files of about two records each, so that tail crosses files.
	write(t, dir, modlog.SmallLog(90, 10), clock(), "1\n2\n3\n4\n5\n6\n7\n", "")
	if files, err := os.ReadDir(dir); err != nil || len(files) < 3 {
		t.Fatalf("%d files (%v), the test wants several", len(files), err)
	}
	for name, tc := range map[string]struct {
		opts runtime.LogOptions
		want []string
	}{
		"all":                  {runtime.LogOptions{}, []string{"1:1\n", "1:2\n", "1:3\n", "1:4\n", "1:5\n", "1:6\n", "1:7\n"}},
		"tail 1":               {runtime.LogOptions{Tail: 1}, []string{"1:7\n"}},
		"tail 2":               {runtime.LogOptions{Tail: 2}, []string{"1:6\n", "1:7\n"}},
		"tail over files":      {runtime.LogOptions{Tail: 5}, []string{"1:3\n", "1:4\n", "1:5\n", "1:6\n", "1:7\n"}},
		"tail beyond":          {runtime.LogOptions{Tail: 50}, []string{"1:1\n", "1:2\n", "1:3\n", "1:4\n", "1:5\n", "1:6\n", "1:7\n"}},
		"tail none":            {runtime.LogOptions{Tail: runtime.TailNone}, nil},
		"since is inclusive":   {runtime.LogOptions{Since: second(6)}, []string{"1:6\n", "1:7\n"}},
		"until is exclusive":   {runtime.LogOptions{Until: second(3)}, []string{"1:1\n", "1:2\n"}},
		"tail before since":    {runtime.LogOptions{Tail: 3, Since: second(7)}, []string{"1:7\n"}},
		"follow of what ended": {runtime.LogOptions{Follow: true, Tail: 1}, []string{"1:7\n"}},
	} {
		t.Run(name, func(t *testing.T) { equal(t, read(t, dir, tc.opts), tc.want...) })
	}
}

func TestRotationBoundsTheLog(t *testing.T) {
	dir := t.TempDir()
	var in bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&in, "line %d\n", i)
	}
	write(t, dir, modlog.SmallLog(1000, 3), clock(), in.String(), "")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, want 3 (%v)", len(files), err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Size() > 1000 {
			t.Errorf("%s has %d bytes (%v), want at most 1000", f.Name(), info.Size(), err)
		}
	}
	got := read(t, dir, runtime.LogOptions{})
	if len(got) < 40 || got[len(got)-1] != "1:line 999\n" {
		t.Errorf("%d lines, last %q", len(got), got[len(got)-1])
	}
	for i, line := range got {
		if want := fmt.Sprintf("1:line %d\n", 1000-len(got)+i); line != want {
			t.Fatalf("line %d is %q, want %q", i, line, want)
		}
	}
}

func TestWriterGoesOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	now := clock()
	write(t, dir, modlog.Default, now, "one\n", "")
	write(t, dir, modlog.Default, now, "two\n", "")
	equal(t, read(t, dir, runtime.LogOptions{}), "1:one\n", "1:two\n")
}

func TestTornRecordIsSkipped(t *testing.T) {
	dir := t.TempDir()
	now := clock()
	write(t, dir, modlog.Default, now, "one\n", "")
	f, err := os.OpenFile(filepath.Join(dir, "0000000001.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("2026-01-01T00:0"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, dir, modlog.Default, now, "two\n", "")
	equal(t, read(t, dir, runtime.LogOptions{}), "1:one\n", "1:two\n")
}

func TestFollowSeesWhatIsWrittenLaterAcrossRotation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	pipeOut, stdout := io.Pipe()
	ended := make(chan struct{})
	writerDone := make(chan error, 1)
	next := make(chan struct{})
	go func() {
		<-next // the reader came first
		w, err := modlog.NewWriter(dir, modlog.SmallLog(120, 100), time.Now)
		if err == nil {
			err = errors.Join(modlog.Copy(w, pipeOut, strings.NewReader("")), w.Close())
		}
		close(ended)
		writerDone <- err
	}()
	const n = 20
	go func() {
		for i := range n {
			<-next
			fmt.Fprintf(stdout, "%d\n", i)
		}
		_ = stdout.Close()
	}()
	next <- struct{}{}
	next <- struct{}{}
	var got int
	for e, err := range modlog.Read(t.Context(), dir, runtime.LogOptions{Follow: true}, ended) {
		if err != nil {
			t.Fatal(err)
		}
		if string(e.Line) != fmt.Sprintf("%d\n", got) {
			t.Fatalf("entry %d is %q", got, e.Line)
		}
		if got++; got < n {
			next <- struct{}{} // only now is the next line written
		}
	}
	if got != n {
		t.Errorf("%d lines, want %d", got, n)
	}
	if err := <-writerDone; err != nil {
		t.Error(err)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, modlog.Default, clock(), "x\n", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range modlog.Read(ctx, dir, runtime.LogOptions{Follow: true}, nil) {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("last error %v", last)
	}
}

func TestFollowEndsAtUntil(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, modlog.Default, clock(), "x\n", "")
	n := 0
	for _, err := range modlog.Read(t.Context(), dir, runtime.LogOptions{Follow: true, Until: time.Now().Add(50 * time.Millisecond)}, nil) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d entries, want 1", n)
	}
}

func TestLogConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		config map[string]string
		want   modlog.Settings
		fails  bool
	}{
		"absent":        {nil, modlog.Default, false},
		"usual":         {map[string]string{"max-size": "20m", "max-file": "5"}, modlog.Settings{MaxSize: 20 << 20, MaxFiles: 5}, false},
		"plain bytes":   {map[string]string{"max-size": "100000000"}, modlog.Settings{MaxSize: 100000000, MaxFiles: 3}, false},
		"long unit":     {map[string]string{"max-size": "1 GiB"}, modlog.Settings{MaxSize: 1 << 30, MaxFiles: 3}, false},
		"unlimited":     {map[string]string{"max-size": "-1"}, modlog.Default, false},
		"other options": {map[string]string{"compress": "true"}, modlog.Default, false},
		"bad size":      {map[string]string{"max-size": "much"}, modlog.Settings{}, true},
		"bad unit":      {map[string]string{"max-size": "1mm"}, modlog.Settings{}, true},
		"no size":       {map[string]string{"max-size": ""}, modlog.Settings{}, true},
		"bad count":     {map[string]string{"max-file": "0"}, modlog.Settings{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := modlog.FromLogConfig(tc.config)
			if (err != nil) != tc.fails || !tc.fails && got != tc.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	dir, s, err := modlog.Decode(modlog.Default.Encode("/var/lib/x y&z"))
	if err != nil || dir != "/var/lib/x y&z" || s != modlog.Default {
		t.Errorf("round trip gives %q %+v %v", dir, s, err)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(modlog.AppendRecord(nil, second(1), runtime.Stdout, modlog.WholeLine, []byte("hello")))
	f.Add(modlog.AppendRecord(nil, second(1), runtime.Stderr, modlog.Piece, []byte("")))
	f.Add([]byte("2026-01-01T00:00:01.000000000Z stdout F\n"))
	f.Fuzz(func(t *testing.T, rec []byte) {
		e, err := modlog.ParseRecord(rec)
		if err != nil {
			return
		}
		k, text := modlog.Unended, e.Line
		switch {
		case e.Partial:
			k = modlog.Piece
		case bytes.HasSuffix(e.Line, []byte("\n")):
			k, text = modlog.WholeLine, e.Line[:len(e.Line)-1]
		}
		// Not the bytes: the time may be written in more than one way.
		again, err := modlog.ParseRecord(modlog.AppendRecord(nil, e.Time, e.Stream, k, text))
		if err != nil || !again.Time.Equal(e.Time) || again.Stream != e.Stream ||
			again.Partial != e.Partial || !bytes.Equal(again.Line, e.Line) {
			t.Errorf("%q comes back as %+v, %v", rec, again, err)
		}
	})
}
