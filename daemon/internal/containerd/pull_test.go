//go:build integration

package containerd_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// TestPullErrorsAreClear: every way in which a registry may fail has its kind and
// says what was wrong, without the account.
func TestPullErrorsAreClear(t *testing.T) {
	r := engine(t)
	const password = "open sesame"
	pull := func(ref string) error {
		_, err := r.Pull(t.Context(), runtime.PullRequest{Image: ref, Auth: runtime.Auth{Username: "gate", Password: password}})
		return err
	}
	for _, tc := range []struct {
		status int
		kind   error
	}{
		{http.StatusUnauthorized, runtime.ErrUnauthorized},
		{http.StatusForbidden, runtime.ErrUnauthorized},
		{http.StatusNotFound, runtime.ErrImageNotFound},
		{http.StatusInternalServerError, runtime.ErrUnavailable},
		{http.StatusBadGateway, runtime.ErrUnavailable},
	} {
		unhook := hook(t, func(w http.ResponseWriter, _ *http.Request) bool {
			if tc.status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			}
			w.WriteHeader(tc.status)
			return true
		})
		err := pull(image("test/module:1"))
		unhook()
		var pe *runtime.PullError
		if !errors.Is(err, tc.kind) || !errors.As(err, &pe) || pe.Registry != registryHost || strings.Contains(err.Error(), password) {
			t.Errorf("status %d: %v, want %v", tc.status, err, tc.kind)
		}
	}

	// Registries on this machine need no TLS, so this one is at another address.
	const address = "10.99.77.1"
	if out, err := exec.Command("ip", "address", "add", address+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("ip", "address", "del", address+"/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}()
	l, err := net.Listen("tcp", address+":0")
	check(t, err)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	check(t, server.Listener.Close())
	server.Listener = l
	server.StartTLS()
	defer server.Close()
	err = pull(l.Addr().String() + "/test/module:1")
	if !errors.Is(err, runtime.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), password) {
		t.Errorf("unknown authority: %v", err)
	}
}
