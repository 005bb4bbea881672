package queue_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
)

// While one of many endpoints is dead, the bodies that it shares stay; writing their
// segments anew when the others have taken them gives nothing back.
func TestBodiesThatADeadEndpointSharesAreNotWrittenAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := simdisk.New()
		q := onDisk(t, d, queue.Options{})
		for i := range 400 {
			if err := tryAppend(q, large(fmt.Sprint("m", i)), to("a", 0), to("b", 0), to("dead", 0)); err != nil {
				t.Fatal(err)
			}
		}
		before := strings.Join(d.Names(), " ")
		id := func() (id string) {
			d.Change(d.Names()[0], func(b []byte) []byte { id = string(b[24:32]); return b })
			return id
		}
		first := id()
		all(t, q.Reader("a"))
		all(t, q.Reader("b"))
		q.Flush()
		synctest.Wait()
		if after := strings.Join(d.Names(), " "); after != before || id() != first {
			t.Errorf("segments were %s, are %s; the first was written anew: %v", before, after, id() != first)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
