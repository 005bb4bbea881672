package route_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// The table was written from the specification before it was run, so it may hold what
// the other files, made with the code, have missed. Of an error only the place counts.
func TestSentencesOfTheSpecification(t *testing.T) {
	if *update {
		t.Skip("this table is written by hand")
	}
	golden(t, "spec.golden", func(m *iothub.Message, condition string) string {
		c, err := route.CompileCondition(condition)
		if e := (*route.Error)(nil); errors.As(err, &e) {
			return fmt.Sprintf("error %d:%d", e.Line, e.Col)
		}
		return c.Evaluate(m).String()
	})
}
