package seglog_test

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
)

// A sector that cannot be read must not end the program, and end it again after each
// start, when all that wants it is the giving back of space.
func TestPlaceThatCannotBeReadIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := simdisk.New()
		for start := range 2 {
			o := newOwner()
			if err := o.open(d.Folder()); err != nil {
				t.Fatal(err)
			}
			if start == 0 {
				for range 200 {
					if err := o.write(true, 1000, 1, 2); err != nil {
						t.Fatal(err)
					}
				}
				d.Unreadable(d.Names()[1], 8<<10, 9<<10)
			}
			o.l.Finish(1, 0, 200)
			for i := range uint64(200) {
				if i%4 > 0 { // most of each segment: worth writing anew
					o.l.Finish(2, i, i+1)
				}
			}
			synctest.Wait()
			if err := o.l.Err(); err != nil {
				t.Fatalf("start %d: %v", start, err)
			}
			if err := o.write(true, 1000, 3); err != nil {
				t.Errorf("start %d: %v", start, err)
			}
			if err := o.l.Close(); err != nil {
				t.Errorf("start %d: %v", start, err)
			}
		}
	})
}

// filled is a disk with a log of 108 messages, each with a sync of its own, in several
// segments; the newest has a footer only after an orderly end.
func filled(t *testing.T, orderly bool) *simdisk.Disk {
	t.Helper()
	d := simdisk.New()
	o := newOwner()
	if err := o.open(d.Folder()); err != nil {
		t.Fatal(err)
	}
	for range 108 {
		if err := o.write(true, 900, 1); err != nil {
			t.Fatal(err)
		}
	}
	if !orderly {
		d.FailAfter(0, syscall.EIO)
	}
	_ = o.l.Close()
	d.FailAfter(0, nil)
	if n := len(d.Names()); n != 7 {
		t.Fatalf("%d segments", n)
	}
	return d
}

const page = 4 << 10

func TestOnlyWhatCannotBeReadIsLost(t *testing.T) {
	tests := []struct {
		name       string
		orderly    bool
		segment    int
		from, to   int64 // from below 0: before the end of the file
		lost, told int
	}{
		{"a page of the newest segment, left by a crash", false, 6, page, page + 512, 5, 1},
		{"its last messages", false, 6, 2 * page, 4 * page, 4, 1},
		{"pages where nothing is yet", false, 6, 3 * page, 4 * page, 0, 1},
		{"a page of the newest segment, after an orderly end", true, 6, page, page + 512, 5, 0},
		{"a page of an older segment", true, 1, page + 100, page + 101, 5, 0},
		{"the page of a footer", true, 1, -1, 0, 4, 2},
		{"a head, and so its segment", true, 1, 0, 1, 16, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := filled(t, tt.orderly)
			name := d.Names()[tt.segment]
			if tt.from < 0 {
				d.Change(name, func(b []byte) []byte {
					tt.from, tt.to = int64(len(b))+tt.from, int64(len(b))
					return b
				})
			}
			d.Unreadable(name, tt.from, tt.to)
			o := mustOpen(t, d)
			if got := len(o.l.Damage()); got != tt.told {
				t.Errorf("damage told at the start: %v", o.l.Damage())
			}
			left := o.read(t, 1)
			if 108-len(left) != tt.lost {
				t.Errorf("%d of 108 lost", 108-len(left))
			}
			var told []seglog.Damage
			all, err := o.l.Verify(func(string, seglog.Part, seglog.Bodies) {})
			if err != nil {
				t.Error(err)
			}
			for _, x := range append(all, o.l.Damage()...) {
				if x.Segment == name && x.Offset <= tt.from+page && (x.Length < 0 || x.Offset+x.Length > tt.from) {
					told = append(told, x)
				}
			}
			if tt.lost > 0 && len(told) == 0 {
				t.Errorf("verify: %v", all)
			}
			// And it goes on, also when what was bad can be read again.
			if err := o.write(true, 900, 1); err != nil {
				t.Fatal(err)
			}
			if err := o.l.Close(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				o = mustOpen(t, d)
				again := o.read(t, 1)
				if again[o.next[1]-1] != text(1, o.next[1]-1, 900) {
					t.Errorf("after a start the last is %.20q", again[o.next[1]-1])
				}
				for offset := range left {
					if again[offset] == "" {
						t.Errorf("after a start %d is lost", offset)
					}
				}
				if err := o.l.Close(); err != nil {
					t.Fatal(err)
				}
				d.Unreadable(name, 0, 0)
			}
		})
	}
}

// A disk that is not there, or reads nothing for now, must not cost a message.
func TestDiskThatReadsNothingIsRefused(t *testing.T) {
	for name, bad := range map[string]func(d *simdisk.Disk){
		"all of it": func(d *simdisk.Disk) {
			for _, name := range d.Names() {
				d.Unreadable(name, 0, 1<<20)
			}
		},
		"all but the heads": func(d *simdisk.Disk) {
			for _, name := range d.Names() {
				d.Unreadable(name, page, 1<<20)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := filled(t, false)
			d.Change(d.Names()[6], func(b []byte) []byte { // as large as segments are
				return append(b, make([]byte, 1<<20)...)
			})
			bad(d)
			o := newOwner()
			if err := o.openOnly(d.Folder()); !errors.Is(err, syscall.EIO) {
				t.Fatalf("opened: %v", err)
			}
			for _, name := range d.Names() {
				d.Unreadable(name, 0, 0)
			}
			if got := mustOpen(t, d).read(t, 1); len(got) != 108 {
				t.Errorf("%d of 108 are left", len(got))
			}
		})
	}
}
