package iothub_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// However long the list is, it is that of Set and SetNull.
func TestCollectorSetsAsPropertiesDo(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, names := range []int{1, 10, 31, 32, 33, 100} {
		for _, before := range []int{0, 5, 40} {
			var want iothub.Properties
			for i := range before {
				want.Set(fmt.Sprint("name", i), "before")
			}
			got := want.Clone()
			c := got.Collect()
			for i := range 5 * names {
				p := iothub.Property{Name: fmt.Sprint("name", random.IntN(names)), Null: random.IntN(3) == 0}
				if p.Null {
					want.SetNull(p.Name)
				} else {
					p.Value = fmt.Sprint(i)
					want.Set(p.Name, p.Value)
				}
				c.Set(p)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d names after %d: %v, want %v", names, before, got, want)
			}
		}
	}
}
