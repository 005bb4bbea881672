//go:build e2e

package crash_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/crash"
	"github.com/breakwater-iot/breakwater/e2e/faultdisk"
)

func options(t *testing.T, cycles int) crash.Options {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return crash.Options{Bin: bin, Dir: t.TempDir(), Cycles: cycles, Seed: seed, Metadata: faultdisk.Ordered, Say: t.Logf}
}

func TestNothingAcknowledgedIsLostWhenTheHubIsKilled(t *testing.T) {
	r, err := crash.Kill(t.Context(), options(t, 15))
	t.Log(r)
	if err != nil {
		t.Fatal(err)
	}
}

func TestNothingAcknowledgedIsLostOnABadDisk(t *testing.T) {
	r, err := crash.Fault(t.Context(), options(t, 15))
	t.Log(r)
	if err != nil {
		t.Fatal(err)
	}
}

func TestWithoutFsyncSomethingIsLost(t *testing.T) {
	r, err := crash.Control(t.Context(), options(t, 0))
	t.Log(r)
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost == 0 {
		t.Error("the fault disk does not show a missing fsync")
	}
}
