package storecmd_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/hub/internal/storecmd"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const upstream = "$upstream"

// filled makes a store with 20 messages for the cloud and 10 large ones for two
// module inputs, of which one has settled three.
func filled(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "edgeHub")
	s := open(t, dir)
	folder, err := seglog.Dir(filepath.Join(dir, queue.Subfolder))
	if err != nil {
		t.Fatal(err)
	}
	q, err := queue.Open(folder, queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		m := &iothub.Message{Body: []byte(fmt.Sprint(i, strings.Repeat("x", 4000)))}
		targets := []queue.Target{{Endpoint: upstream, Priority: queue.DefaultPriority, TTL: -1}}
		if i >= 20 {
			targets = []queue.Target{{Endpoint: "device/a/in", Priority: 1, TTL: -1}, {Endpoint: "device/b/in", Priority: 1, TTL: time.Hour}}
		}
		done := make(chan error, 1)
		q.Append(m, targets, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	r := q.Reader("device/a/in")
	list, err := r.Read(1, 3, 1<<20)
	if err != nil || len(list) != 3 {
		t.Fatalf("read %d, %v", len(list), err)
	}
	r.Settle(list...)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Bucket("twins").Put(t.Context(), "k", bytes.Repeat([]byte("v"), 50_000)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestShowTellsQueuesAndBuckets(t *testing.T) {
	dir := filled(t)
	for _, d := range []string{dir, filepath.Dir(dir)} { // the store or the storage folder
		var out bytes.Buffer
		if err := storecmd.Show(&out, d, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(out.String()), " ")
		for _, want := range []string{upstream + " default 20 ", "device/a/in 1 7 ", "device/b/in 1 10 ", " 1m0s ", "twins 1"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is missing in\n%s", want, out.String())
			}
		}
	}
}

func TestVerifyFindsNothingInAGoodStore(t *testing.T) {
	dir := filled(t)
	before := files(t, dir)
	var out bytes.Buffer
	if err := storecmd.Verify(&out, dir, time.Now()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if want := "3 queues with 37 messages, 0 of them expired; 1 segments"; !strings.Contains(out.String(), want) {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if after := files(t, dir); after != before {
		t.Errorf("files changed from\n%s\nto\n%s", before, after)
	}
}

// files describes a folder.
func files(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %d %x\n", path, len(content), sha256.Sum256(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestVerifyFindsDamage(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(segment []byte) []byte
		want   string
	}{
		"frame is changed":   {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "checksum of frame"},
		"head is changed":    {func(b []byte) []byte { b[9] ^= 1; return b }, "from byte 0 to its end: damaged: checksum of the head"},
		"footer is changed":  {func(b []byte) []byte { b[len(b)-60] ^= 1; return b }, ""},
		"segment is cut":     {func(b []byte) []byte { return b[:len(b)/2] }, ""},
		"segment is emptied": {func(b []byte) []byte { return nil }, "no segment"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filled(t)
			segments, err := filepath.Glob(filepath.Join(dir, queue.Subfolder, "*.seg"))
			if err != nil || len(segments) != 1 {
				t.Fatalf("segments: %v, %v", segments, err)
			}
			b, err := os.ReadFile(segments[0])
			if err == nil {
				err = os.WriteFile(segments[0], c.damage(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = storecmd.Verify(&out, dir, time.Now())
			if c.want == "" {
				// What is behind the last frame may be a write that a power cut has torn.
				if err != nil {
					t.Errorf("%v\n%s", err, out.String())
				}
				return
			}
			if !errors.Is(err, storecmd.ErrDamaged) || !strings.Contains(out.String(), c.want) {
				t.Errorf("%v, %q is missing in\n%s", err, c.want, out.String())
			}
		})
	}
}

func TestDamagedTableIsFound(t *testing.T) {
	dir := filled(t)
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables: %v, %v", tables, err)
	}
	f, err := os.OpenFile(tables[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damage"), 2000); err != nil {
		t.Fatal(err)
	}
	if err := storecmd.Verify(&bytes.Buffer{}, dir, time.Now()); err == nil {
		t.Error("nothing found")
	}
}

func TestStoreInUseAndNoStoreAreRefused(t *testing.T) {
	dir := filled(t)
	s := open(t, dir)
	defer s.Close()
	for _, f := range []func(dir string) error{
		func(dir string) error { return storecmd.Show(&bytes.Buffer{}, dir, time.Now()) },
		func(dir string) error { return storecmd.Verify(&bytes.Buffer{}, dir, time.Now()) },
	} {
		if err := f(dir); !errors.Is(err, store.ErrInUse) {
			t.Errorf("store in use: %v", err)
		}
		if err := f(t.TempDir()); !errors.Is(err, store.ErrNoStore) {
			t.Errorf("empty folder: %v", err)
		}
	}
}
