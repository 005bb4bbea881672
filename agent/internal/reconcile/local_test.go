package reconcile_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
)

// inLocal is as in, for a deployment that is not the cloud's, with a cloud whose identities
// fail as said after that.
func inLocal(t *testing.T, desired string, failure error, f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, desired)
		r.opts.Local = true
		r.start(true)
		r.pass(2 * time.Minute) // what was settled is asked for again
		r.daemon.Calls()
		r.daemon.FailWith(func(call string) error {
			if strings.HasPrefix(call, "identity") {
				return failure
			}
			return nil
		})
		f(r)
		r.end()
	})
}

func TestALocalDeploymentNeedsNoCloudForModulesThatHaveAnIdentity(t *testing.T) {
	inLocal(t, desired(1, mod{name: "a"}, mod{name: "b"}), errors.New("offline"), func(r *rig) {
		r.push(desired(2, mod{name: "a", env: map[string]string{"K": "1"}}, mod{name: "new"}))
		r.pass(time.Second)
		calls := r.daemon.Calls()
		for _, want := range []string{"update a", "start a", "remove b"} {
			if !slices.Contains(calls, want) {
				t.Errorf("no %q in %q", want, calls)
			}
		}
		if slices.Contains(calls, "create new") {
			t.Errorf("a module without an identity is made: %q", calls)
		}
		r.daemon.FailWith(nil)
		r.pass(time.Minute)
		if calls := r.daemon.Calls(); !slices.Contains(calls, "create new") || slices.Contains(calls, "update a") {
			t.Errorf("with the cloud %q", calls)
		}
	})
}

// An identity that is gone is another matter than a cloud that is away: a module that is
// made with it could log in nowhere.
func TestALocalDeploymentUsesNoIdentityThatIsGone(t *testing.T) {
	gone := fmt.Errorf("update identity: %w", launch.ErrNotFound)
	inLocal(t, desired(1, mod{name: "a"}), gone, func(r *rig) {
		r.push(desired(2, mod{name: "a", env: map[string]string{"K": "1"}}))
		r.pass(time.Second)
		if calls := r.daemon.Calls(); slices.Contains(calls, "update a") {
			t.Errorf("%q", calls)
		}
	})
}

// A file is edited without a new version, too: what was settled for a module says nothing any
// more when its identity has been deleted meanwhile.
func TestAModuleThatComesBackUnderTheSameVersionGetsAnIdentityOfItsOwn(t *testing.T) {
	with, without := desired(1, mod{name: "a"}, mod{name: "b"}), desired(1, mod{name: "a"})
	inLocal(t, without, nil, func(r *rig) {
		for range 2 {
			for _, edit := range []string{with, without} {
				r.push(edit)
				r.pass(5 * time.Second)
				if exists := slices.Contains(r.daemon.IdentityIDs(), "b"); exists != (edit == with) {
					t.Errorf("identity of b exists: %v, calls %q", exists, r.daemon.Calls())
				}
			}
		}
	})
}
