package queue_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// device is a machine whose clock may be set, and which may be switched off.
type device struct {
	t       *testing.T
	disk    *simdisk.Disk
	wall    atomic.Int64 // nanoseconds since 1970
	up      atomic.Int64 // nanoseconds
	q       *queue.Queue
	expired atomic.Int64
}

func newDevice(t *testing.T, at time.Time) *device {
	d := &device{t: t, disk: simdisk.New()}
	d.set(at)
	d.start()
	return d
}

func (d *device) set(at time.Time)       { d.wall.Store(at.UnixNano()) }
func (d *device) pass(dur time.Duration) { d.wall.Add(int64(dur)); d.up.Add(int64(dur)) }
func (d *device) now() time.Time         { return time.Unix(0, d.wall.Load()) }

func (d *device) start() {
	d.q = onDisk(d.t, d.disk, queue.Options{
		Now:     d.now,
		Uptime:  func() time.Duration { return time.Duration(d.up.Load()) },
		Expired: func(*iothub.Message) { d.expired.Add(1) },
	})
}

// end closes the queues, or has the disk forget what an orderly end would write.
func (d *device) end(orderly bool) {
	if !orderly {
		d.disk.FailAfter(0, syscall.EIO)
	}
	_ = d.q.Close()
	d.disk.FailAfter(0, nil)
	d.up.Store(0)
}

func (d *device) store(body string, ttl time.Duration) {
	d.t.Helper()
	mustAppend(d.t, d.q, body, queue.Target{Endpoint: "e", TTL: ttl})
}

// want looks that as many messages have not expired.
func (d *device) want(n int) {
	d.t.Helper()
	list, err := d.q.Reader("e").Read(0, 100, 1<<20)
	if err != nil || len(list) != n {
		d.t.Fatalf("at %v there are %d messages, %d have expired, %v; want %d", d.now(), len(list), d.expired.Load(), err, n)
	}
}

var (
	dawn    = time.Unix(300, 0) // of a clock without a battery
	present = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
)

func TestMessagesAgeEvenlyWhenTheClockIsSet(t *testing.T) {
	for name, to := range map[string]time.Time{
		"forward": present.Add(72 * time.Hour), "back": present.Add(-72 * time.Hour), "from 1970": present,
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, present)
			if name == "from 1970" {
				d.set(dawn)
				d.start()
			}
			d.store("old", time.Hour)
			d.store("lasting", never)
			held, err := d.q.Reader("e").Read(0, 1, 1<<20)
			if err != nil || len(held) != 1 {
				t.Fatal(err)
			}
			d.pass(30 * time.Minute)
			d.set(to)
			if held[0].Expired(d.now()) {
				t.Error("a message in a reader's hands has expired when the clock was set")
			}
			d.want(2)
			if age, err := d.q.OldestAge("e"); err != nil || age != 30*time.Minute {
				t.Errorf("oldest age is %v, %v", age, err)
			}
			d.store("new", time.Hour)
			d.pass(31 * time.Minute)
			if !held[0].Expired(d.now()) {
				t.Error("a message in a reader's hands lives too long")
			}
			d.want(2)
			d.pass(30 * time.Minute)
			d.want(1)
		})
	}
}

// Over a restart, in good order or after a crash.
func TestMessagesAgeEvenlyOverAStart(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		for name, test := range map[string]struct {
			before, after time.Time
			off           time.Duration // what the time between counts for
		}{
			"as usual":                         {present, present.Add(20 * time.Minute), 20 * time.Minute},
			"never right before":               {dawn, present, 0},
			"begins in 1970":                   {present, dawn, 0},
			"behind":                           {present, present.Add(-time.Hour), 0},
			"a little behind":                  {present, present.Add(-time.Second), -time.Second},
			"never right, before and after it": {dawn, dawn.Add(5 * time.Minute), 5 * time.Minute},
		} {
			t.Run(fmt.Sprintf("%s, orderly %v", name, orderly), func(t *testing.T) {
				d := newDevice(t, test.before)
				d.store("old", time.Hour)
				d.store("other", 10*time.Hour)
				d.end(orderly)
				d.set(test.after)
				d.start()
				d.want(2)
				left := time.Hour - test.off
				d.pass(left - time.Minute)
				d.want(2)
				d.set(d.now().Add(100 * time.Hour)) // set at last
				d.want(2)
				d.store("new", time.Hour)
				d.end(orderly)
				d.start()
				d.want(3)
				d.pass(2 * time.Minute)
				d.want(2)
			})
		}
	}
}

// What was set while the program ran is not forgotten by a crash, although nothing was
// stored afterwards.
func TestClockThatWasSetIsRememberedAfterACrash(t *testing.T) {
	d := newDevice(t, present)
	d.store("old", time.Hour)
	d.set(present.Add(100 * time.Hour))
	d.want(1)
	d.q.Flush()
	d.end(false)
	d.start()
	d.want(1)
	d.pass(time.Hour)
	d.want(0)
}

// A crash leaves the time of the newest message, not only that of the segment's begin.
func TestTimeOfTheNewestMessageIsKnownAfterACrash(t *testing.T) {
	d := newDevice(t, present)
	d.store("first", never)
	d.pass(5 * time.Hour)
	d.store("old", time.Hour)
	d.end(false)
	d.set(dawn)
	d.start()
	d.want(2)
	d.pass(61 * time.Minute)
	d.want(1)
}

func TestTimesAreToldByTheSystemsClock(t *testing.T) {
	d := newDevice(t, dawn)
	d.store("m", never)
	d.pass(time.Hour)
	d.set(present)
	list, err := d.q.Reader("e").Read(0, 1, 1<<20)
	if err != nil || len(list) != 1 || !list[0].Enqueued.Equal(present.Add(-time.Hour)) {
		t.Fatalf("%v, stored at %v, %v", list, list[0].Enqueued, err)
	}
	d.end(true)
	x, err := queue.Inspect(d.disk.Folder(), true, d.now())
	if err != nil || !x.Queues[0].Oldest.Equal(present.Add(-time.Hour)) {
		t.Errorf("inspected: %+v, %v", x, err)
	}
}

func TestNewStoreBeginsWithTheSystemsClock(t *testing.T) {
	var log bytes.Buffer
	o := queue.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	d := simdisk.New()
	for range 2 {
		if err := onDisk(t, d, o).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if log.Len() > 0 {
		t.Errorf("log is %s", log.String())
	}
}
