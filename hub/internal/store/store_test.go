package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, dir string, o store.Options) *store.Store {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	o.InMemory = dir == ""
	s, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t testing.TB, s *store.Store, key, value string) {
	t.Helper()
	var b store.Batch
	b.Put([]byte(key), []byte(value))
	if err := s.CommitWait(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
}

func TestCallbacksRunOnceInOrderOfCommit(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{MaxPending: 16})
	const n = 2000
	var got []int // written by the committer only
	last := make(chan struct{})
	for i := range n {
		done := func(err error) {
			if err != nil {
				t.Errorf("commit %d: %v", i, err)
			}
			if got = append(got, i); len(got) == n {
				close(last)
			}
		}
		key := fmt.Appendf(nil, "k%05d", i)
		switch i % 3 {
		case 0:
			var b store.Batch
			b.Put(key, []byte("v"))
			s.Commit(&b, done)
		case 1:
			s.CommitLate(func(b *store.Batch) { b.Put(key, []byte("v")) }, done)
		case 2:
			s.CommitRelaxed(func(b *store.Batch) { b.Put(key, []byte("v")) }, done)
		}
	}
	<-last
	for i, v := range got {
		if i != v {
			t.Fatalf("callback %d was that of commit %d", i, v)
		}
	}
	keys := 0
	if err := s.Scan([]byte("k"), nil, func(_, _ []byte) error { keys++; return nil }); err != nil || keys != n {
		t.Fatalf("%d keys, %v", keys, err)
	}
}

func TestCloseCommitsWhatWaits(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{})
	var ok atomic.Int32
	for i := range 500 {
		var b store.Batch
		b.Put(fmt.Appendf(nil, "k%d", i), nil)
		s.Commit(&b, func(err error) {
			if err == nil {
				ok.Add(1)
			}
		})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
	if ok.Load() != 500 {
		t.Fatalf("%d of 500 committed", ok.Load())
	}
	s = open(t, dir, store.Options{})
	n := 0
	if err := s.Scan([]byte("k"), nil, func(_, _ []byte) error { n++; return nil }); err != nil || n != 500 {
		t.Fatalf("%d keys after reopen, %v", n, err)
	}
}

func TestCallbackMayWriteWhileTheStoreCloses(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{})
	closing, second := make(chan struct{}), make(chan error, 1)
	s.CommitLate(func(*store.Batch) { <-closing }, func(error) {
		s.CommitRelaxed(func(b *store.Batch) { b.Put([]byte("k"), nil) }, func(err error) { second <- err })
	})
	go func() {
		for { // until Close has begun
			if _, err := s.Get([]byte("k")); errors.Is(err, store.ErrClosed) {
				close(closing)
				return
			}
		}
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Fatalf("write in a callback: %v", err)
	}
	s = open(t, dir, store.Options{})
	if _, err := s.Get([]byte("k")); err != nil {
		t.Fatal(err)
	}
}

func TestEverythingIsRefusedAfterClose(t *testing.T) {
	s := open(t, "", store.Options{})
	put(t, s, "a", "1")
	_ = s.Close()
	var b store.Batch
	b.Put([]byte("k"), nil)
	var got error
	s.Commit(&b, func(err error) { got = err })
	if !errors.Is(got, store.ErrClosed) {
		t.Errorf("Commit: %v", got)
	}
	got = nil
	s.CommitRelaxed(func(*store.Batch) { t.Error("filled") }, func(err error) { got = err })
	if !errors.Is(got, store.ErrClosed) {
		t.Errorf("CommitRelaxed: %v", got)
	}
	if _, err := s.Get([]byte("a")); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Get: %v", err)
	}
	if err := s.Scan([]byte("a"), nil, nil); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Scan: %v", err)
	}
}

func TestCommitBlocksAtMaxPending(t *testing.T) {
	s := open(t, "", store.Options{MaxPending: 4})
	hold, held := make(chan struct{}), make(chan struct{})
	s.CommitLate(func(*store.Batch) { close(held); <-hold }, func(error) {})
	<-held
	var through atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 10 {
			var b store.Batch
			b.Put([]byte{byte(i + 1)}, nil)
			s.Commit(&b, func(error) {})
			through.Add(1)
		}
	})
	deadline := time.Now().Add(5 * time.Second)
	for through.Load() < 4 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if n := through.Load(); n != 4 {
		t.Errorf("%d commits went through while the committer stood still, want 4", n)
	}
	s.CommitRelaxed(func(*store.Batch) {}, func(error) {}) // must not block
	close(hold)
	wg.Wait()
}

func TestBatchLargerThanOneTransactionIsWrittenInFull(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	var b store.Batch
	const n = 40000 // over the count and the size of one of Badger's transactions
	for i := range n {
		b.Put(fmt.Appendf(nil, "k%06d", i), make([]byte, 100))
	}
	b.Delete([]byte("k000000"), 0)
	if err := s.CommitWait(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	got := 0
	if err := s.Scan([]byte("k"), nil, func(_, v []byte) error { got++; return nil }); err != nil || got != n-1 {
		t.Fatalf("%d keys, %v", got, err)
	}
}

func TestWritesOfABatchApplyInOrder(t *testing.T) {
	s := open(t, "", store.Options{})
	var b store.Batch
	b.Put([]byte("a"), []byte("1"))
	b.Delete([]byte("a"), 0)
	b.Delete([]byte("b"), 0)
	b.Put([]byte("b"), []byte("2"))
	if err := s.CommitWait(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get([]byte("a")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a: %v", err)
	}
	if v, err := s.Get([]byte("b")); err != nil || string(v) != "2" {
		t.Errorf("b: %q %v", v, err)
	}
}

func TestWrongBatchFailsAlone(t *testing.T) {
	s := open(t, "", store.Options{})
	hold := make(chan struct{})
	s.CommitLate(func(*store.Batch) { <-hold }, func(error) {})
	results := make(chan error, 3)
	for _, value := range [][]byte{nil, make([]byte, store.MaxValue+1), nil} {
		var b store.Batch
		b.Put([]byte("k"), value)
		s.Commit(&b, func(err error) { results <- err })
	}
	close(hold)
	if err := <-results; err != nil {
		t.Error(err)
	}
	if err := <-results; !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("large value: %v", err)
	}
	if err := <-results; err != nil {
		t.Error(err)
	}
}

func TestFailureIsReportedAndFinal(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	put(t, s, "a", "1")
	if err := s.BreakDatabase(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var b store.Batch
		b.Put([]byte("k"), nil)
		if err := s.CommitWait(t.Context(), &b); !errors.Is(err, store.ErrFailed) {
			t.Fatalf("got %v, want ErrFailed", err)
		}
	}
	select {
	case <-s.Failed():
	default:
		t.Error("Failed is not closed")
	}
	if err := s.Watch(t.Context()); !errors.Is(err, store.ErrFailed) {
		t.Errorf("Watch returned %v, want ErrFailed", err)
	}
}

func TestFullDiskRefusesPutsAndTakesDeletes(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{})
	put(t, s, "a", "1")
	_ = s.Close()
	s = open(t, dir, store.Options{MinFree: 1 << 60})
	var b store.Batch
	b.Put([]byte("k"), nil)
	if err := s.CommitWait(t.Context(), &b); !errors.Is(err, store.ErrFull) {
		t.Errorf("put: %v, want ErrFull", err)
	}
	late := make(chan error, 1)
	s.CommitLate(func(*store.Batch) { t.Error("refused batch was filled") }, func(err error) { late <- err })
	if err := <-late; !errors.Is(err, store.ErrFull) {
		t.Errorf("late put: %v, want ErrFull", err)
	}
	if err := s.Bucket("x").Delete(t.Context(), "a"); err != nil {
		t.Errorf("delete: %v", err)
	}
	s.CommitRelaxed(func(b *store.Batch) { b.Put([]byte("c"), nil) }, func(err error) { late <- err })
	if err := <-late; err != nil {
		t.Errorf("relaxed: %v", err)
	}
}

func TestLogsAreFollowedThroughRotation(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{})
	for i := range 300 { // 75 MB: some nine logs
		relaxed := i%50 != 0
		result := make(chan error, 1)
		fill := func(b *store.Batch) { b.Put(fmt.Appendf(nil, "k%d", i), make([]byte, 250<<10)) }
		if relaxed {
			s.CommitRelaxed(fill, func(err error) { result <- err })
		} else {
			s.CommitLate(fill, func(err error) { result <- err })
		}
		if err := <-result; err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "last", "")
	if n := s.OpenLogs(); n != 1 {
		t.Errorf("%d logs open after a sync, want the newest only", n)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
	if len(logs) == 0 || filepath.Base(logs[0]) < "00005.mem" {
		t.Errorf("logs %v: the test did not rotate them", logs)
	}
}

func TestLogsLeftEmptyByAKillAreNoObstacle(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{})
	put(t, s, "a", "1")
	_ = s.Close()
	for _, name := range []string{"00007.mem", "000042.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir, store.Options{})
	if v, err := s.Get([]byte("a")); err != nil || string(v) != "1" {
		t.Errorf("%q, %v", v, err)
	}
	if _, err := store.Open(dir, store.Options{Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("opened twice")
	}
	put(t, s, "b", "2")
}

func TestDeletedDataIsGivenBack(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	const n, size = 1000, 64 << 10
	key := func(i int) []byte { return fmt.Appendf(nil, "k%05d", i) }
	for i := range n {
		var b store.Batch
		b.Put(key(i), make([]byte, size))
		if err := s.CommitWait(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	before := s.DiskSize()
	var b store.Batch
	for i := range n - 10 {
		b.Delete(key(i), size)
	}
	if err := s.CommitWait(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if err := s.Reclaim(); err != nil {
		t.Fatal(err)
	}
	after := s.DiskSize()
	t.Logf("tables: %d KiB before, %d KiB after", before>>10, after>>10)
	if before < 40<<20 || after > 4<<20 {
		t.Errorf("tables take %d bytes, before %d", after, before)
	}
	for i := n - 10; i < n; i++ {
		if v, err := s.Get(key(i)); err != nil || len(v) != size {
			t.Errorf("%s: %d bytes, %v", key(i), len(v), err)
		}
	}
	put(t, s, "more", "x")
}

func TestReclaimRunsByItself(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{ReclaimInterval: 10 * time.Millisecond, ReclaimBytes: 1 << 20})
	var b store.Batch
	for i := range 200 {
		b.Put(fmt.Appendf(nil, "k%05d", i), make([]byte, 64<<10))
	}
	if err := s.CommitWait(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	var d store.Batch
	for i := range 200 {
		d.Delete(fmt.Appendf(nil, "k%05d", i), 64<<10)
	}
	if err := s.CommitWait(t.Context(), &d); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for s.DiskSize() > 1<<20 {
		if time.Now().After(deadline) {
			t.Fatalf("tables still take %d bytes", s.DiskSize())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestBucketsAreSeparate(t *testing.T) {
	s := open(t, "", store.Options{})
	ctx := context.Background()
	a, b := s.Bucket("a"), s.Bucket("ab")
	for _, bucket := range []store.Bucket{a, b} {
		if err := bucket.Put(ctx, "k", bucket.Key("k")); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Delete(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get("k"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleted key: %v", err)
	}
	n := 0
	if err := a.Scan("", func(key string, v []byte) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("scan of a: %d keys, %v", n, err)
	}
}

func TestScanStops(t *testing.T) {
	s := open(t, "", store.Options{})
	for i := range 5 {
		put(t, s, fmt.Sprintf("k%d", i), "")
	}
	var got []string
	err := s.Scan([]byte("k"), []byte("k2"), func(k, _ []byte) error {
		if got = append(got, string(k)); len(got) == 2 {
			return store.ErrStop
		}
		return nil
	})
	if err != nil || fmt.Sprint(got) != "[k2 k3]" {
		t.Errorf("%v, %v", got, err)
	}
	wrong := errors.New("wrong")
	if err := s.Scan([]byte("k"), nil, func(_, _ []byte) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("%v", err)
	}
}
