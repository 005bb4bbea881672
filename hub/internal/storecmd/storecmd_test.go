package storecmd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
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
	q, err := queue.New(s, queue.Options{})
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
	if err := s.Bucket("twins").Put(t.Context(), "k", []byte("v")); err != nil {
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
	if want := "3 queues with 37 messages, 0 of them expired; 10 shared bodies"; !strings.Contains(out.String(), want) {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if after := files(t, dir); after != before {
		t.Errorf("files changed from\n%s\nto\n%s", before, after)
	}
}

// files describes a folder.
func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum := uint64(14695981039346656037)
		for _, c := range content {
			sum = (sum ^ uint64(c)) * 1099511628211
		}
		fmt.Fprintln(&b, e.Name(), len(content), sum)
	}
	return b.String()
}

func key(kind byte, queue uint32, offset ...uint64) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'q', kind}, queue)
	for _, o := range offset {
		b = binary.BigEndian.AppendUint64(b, o)
	}
	return b
}

func TestVerifyFindsDamage(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(*store.Batch)
		want   string
	}{
		"chunk is cut":         {func(b *store.Batch) { b.Put(key('m', 0, 5), []byte{1, 0, 9}) }, "queue 0 ($upstream, priority 2000000000): chunk that ends with message 5"},
		"body is gone":         {func(b *store.Batch) { b.Delete(key('b', 1, 4), 0) }, "body 1/4 is missing"},
		"body is changed":      {func(b *store.Batch) { b.Put(key('b', 1, 4), []byte{1, 9}) }, "body 1/4"},
		"count is wrong":       {func(b *store.Batch) { b.Put(key('r', 1, 5), []byte{0, 0, 1}) }, "body 1/5: 2 messages refer to it, its count says 1"},
		"body of nobody":       {func(b *store.Batch) { b.Put(key('b', 7, 7), []byte{1, 0, 0, 0}) }, "body 7/7: no message refers to it"},
		"counters are gone":    {func(b *store.Batch) { b.Delete(key('n', 0), 0) }, "counters: not found"},
		"checkpoint is broken": {func(b *store.Batch) { b.Put(key('c', 1), []byte{3}) }, "checkpoint"},
		"message past the end": {func(b *store.Batch) { b.Put(key('n', 0), []byte{3, 0}) }, "is behind the end, 3"},
		"queue without a name": {func(b *store.Batch) { b.Put(key('m', 9, 1), []byte{1}) }, "queue 9 has no name, but 1 records of kind m"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filled(t)
			s := open(t, dir)
			var b store.Batch
			c.damage(&b)
			if err := s.CommitWait(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := storecmd.Verify(&out, dir, time.Now()); !errors.Is(err, storecmd.ErrDamaged) {
				t.Errorf("error is %v", err)
			}
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("%q is missing in\n%s", c.want, out.String())
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
