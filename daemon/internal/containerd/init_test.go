//go:build integration

package containerd_test

import (
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

func TestInit(t *testing.T) {
	r := engine(t)
	for name, tc := range map[string]struct {
		options, want string
		code          int
	}{
		"orphans are reaped":   {`{"Cmd":["orphan","orphan","reaped","cat=/proc/1/comm","exit=5"],"HostConfig":{"Init":true}}`, "edged-init\n", 5},
		"as another user":      {`{"User":"worker","Cmd":["orphan","reaped","id"],"HostConfig":{"Init":true,"ReadonlyRootfs":true,"CapDrop":["ALL"]}}`, "1234 2345 [20 2345]\n", 0},
		"in the host's":        {`{"Cmd":["say=here","exit=6"],"HostConfig":{"Init":true,"PidMode":"host"}}`, "here\n", 6},
		"on a terminal":        {`{"Tty":true,"Cmd":["say=here","exit=7"],"HostConfig":{"Init":true}}`, "here\r\n", 7},
		"a command is missing": {`{"Entrypoint":["/missing"],"HostConfig":{"Init":true}}`, "edged-init: exec: \"/missing\": stat /missing: no such file or directory\n", 127},
		"none without":         {`{"Cmd":["cat=/proc/1/comm"],"HostConfig":{"Init":false}}`, "module\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, code := outcome(t, r, tc.options)
			if code != tc.code || got != tc.want {
				t.Errorf("exit code %d, log %q, want %d, %q", code, got, tc.code, tc.want)
			}
		})
	}
}

func TestAStopReachesTheCommandBehindInit(t *testing.T) {
	r := engine(t)
	for name, tc := range map[string]struct {
		options string
		code    int
	}{
		"heeds":    {`{"Cmd":["say=up","exit=-1"],"HostConfig":{"Init":true}}`, 0},
		"does not": {`{"Cmd":["stubborn","say=up","exit=-1"],"HostConfig":{"Init":true}}`, 137},
	} {
		create(t, r, "m", tc.options)
		start(t, r, "m")
		for range r.Logs(t.Context(), "m", runtime.LogOptions{Follow: true}) {
			break
		}
		if err := r.Stop(t.Context(), "m", 2*time.Second); err != nil {
			t.Fatal(err)
		}
		if st, err := r.Get(t.Context(), "m"); err != nil || st.ExitCode != tc.code {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
		remove(t, r, "m")
	}
}
