package seglog_test

import (
	"testing"
	"testing/synctest"

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
