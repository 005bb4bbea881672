package queue_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
)

// The crash test runs the test binary once more as a program that appends until it
// is killed, and prints every message number after it was acknowledged.
const (
	crashDir   = "QUEUE_CRASH_DIR"
	crashFirst = "QUEUE_CRASH_FIRST"
	// crashSegments is small, so that kills fall into changes of segments too.
	crashSegments = 1 << 20
	crashCycles   = "QUEUE_CRASH_CYCLES" // how many kills; 20 by default
)

func runCrashChild() bool {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return false
	}
	first, err := strconv.Atoi(os.Getenv(crashFirst))
	if err == nil {
		err = crashChild(dir, first)
	}
	fmt.Fprintln(os.Stderr, "crash child:", err)
	os.Exit(1)
	return true
}

func crashChild(dir string, first int) error {
	folder, err := seglog.Dir(dir)
	if err != nil {
		return err
	}
	q, err := queue.Open(folder, queue.Options{SegmentSize: crashSegments})
	if err != nil {
		return err
	}
	go settleSome(q.Reader("settled"))
	var mu sync.Mutex
	slots := make(chan struct{}, 64)
	for i := first; ; i++ {
		slots <- struct{}{}
		body := fmt.Sprint(i, " ", strings.Repeat("x", i*37%3000))
		// In runs, so that there is traffic for groups and for single commits.
		store := q.Append
		if i/500%2 == 0 {
			store = q.AppendLater
		}
		store(msg(body), []queue.Target{to("kept", uint32(i%3)), to("settled", 0)}, func(err error) {
			if err == nil {
				mu.Lock()
				fmt.Println(i)
				mu.Unlock()
			}
			<-slots
		})
		q.Commit(func() {})
	}
}

// settleSome reads and settles for ever, so that kills fall into deletes too.
func settleSome(r *queue.Reader) {
	for range r.Ready() {
		for {
			list, err := r.Read(0, 50, 1<<20)
			if err != nil {
				fmt.Fprintln(os.Stderr, "crash child: read:", err)
				os.Exit(1)
			}
			if len(list) == 0 {
				break
			}
			r.Settle(list...)
		}
	}
}

func TestEveryAcknowledgedMessageSurvivesAKill(t *testing.T) {
	t.Parallel() // one of those that take long
	cycles := 20
	if v := os.Getenv(crashCycles); v != "" {
		var err error
		if cycles, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	var acked []int // not yet seen by the parent
	next := 0
	for range cycles {
		got := killedChild(t, dir, next)
		acked = append(acked, got...)
		if n := len(got); n > 0 {
			next = got[n-1] + 1000 // some may have been stored without an ack
		} else {
			next += 1000
		}
		if rand.IntN(3) > 0 {
			continue // let several kills pile up
		}
		checkAcked(t, dir, acked)
		acked = nil
	}
	checkAcked(t, dir, acked)
}

func killedChild(t *testing.T, dir string, first int) (acked []int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir, crashFirst+"="+strconv.Itoa(first))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(out)
	kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	for scan.Scan() {
		n, err := strconv.Atoi(scan.Text())
		if err != nil {
			break // a line cut by the kill
		}
		if acked = append(acked, n); len(acked) == 1 {
			kill.Reset(rand.N(150 * time.Millisecond))
		}
	}
	_ = cmd.Wait()
	kill.Stop()
	return acked
}

// checkAcked reads everything and settles it: every acked message, each priority
// in order, none twice.
func checkAcked(t *testing.T, dir string, acked []int) {
	t.Helper()
	s := openStore(t, dir)
	q := newQueue(t, s, queue.Options{SegmentSize: crashSegments})
	r := q.Reader("kept")
	seen := make(map[int]bool)
	for p := range uint32(3) {
		last, want := -1, q.Len("kept", p)
		for count := 0; ; {
			list := read(t, r, p, 500)
			if len(list) == 0 {
				if count != want {
					t.Fatalf("priority %d has %d messages, its length said %d", p, count, want)
				}
				break
			}
			for _, e := range list {
				text, rest, _ := strings.Cut(string(e.Message.Body), " ")
				n, err := strconv.Atoi(text)
				if err != nil || len(rest) != n*37%3000 || n <= last || n%3 != int(p) {
					t.Fatalf("message %q (%d bytes more) after %d: %v", text, len(rest), last, err)
				}
				seen[n], last = true, n
				count++
			}
			r.Settle(list...)
		}
	}
	for _, n := range acked {
		if !seen[n] {
			t.Fatalf("acknowledged message %d is lost; %d of %d found", n, len(seen), len(acked))
		}
	}
	t.Logf("%d acknowledged, %d found", len(acked), len(seen))
	o := q.Reader("settled")
	for list := read(t, o, 0, 500); len(list) > 0; list = read(t, o, 0, 500) {
		o.Settle(list...)
	}
	if q.Bytes() != 0 {
		t.Fatalf("%d bytes left after all was settled", q.Bytes())
	}
	sound(t, s)
}
