//go:build integration

package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
)

type keychain struct{}

func (keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: "gate", Password: "open sesame"}, nil
}

func netConfig() network.Config {
	return network.Config{Bridge: "bw-rt-test", V4: network.Range{Subnet: netip.MustParsePrefix(testSubnet)}}
}

func TestSuite(t *testing.T) {
	r := engine(t)
	runtimetest.Run(t, runtimetest.Harness{Runtime: r, Image: image("test/module:1"), Missing: image("test/missing:1")})
}

func TestCloseEndsAllGoroutines(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	r := open(t, home(t))
	create(t, r, "m", `{"Cmd":["exit=-1"]}`)
	start(t, r, "m")
	events := r.Events(t.Context())
	<-time.After(10 * time.Millisecond)
	if err := r.TearDown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for range events { // closed by Close
	}
	goleak.VerifyNone(t, ignore, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

func create(t *testing.T, r *containerd.Runtime, name, options string) {
	t.Helper()
	if err := tryCreate(t, r, name, options); err != nil {
		t.Fatal(err)
	}
}

func tryCreate(t *testing.T, r *containerd.Runtime, name, options string) error {
	t.Helper()
	opts, warnings, err := createopts.Parse([]byte(options))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if _, err := r.Pull(t.Context(), runtime.PullRequest{Image: image("test/module:1")}); err != nil {
		t.Fatal(err)
	}
	return r.Create(t.Context(), runtime.Spec{Name: name, Image: image("test/module:1"), Options: opts})
}

func start(t *testing.T, r *containerd.Runtime, name string) {
	t.Helper()
	if err := r.Start(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

// output waits for the module's end and returns its log.
func output(t *testing.T, r *containerd.Runtime, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var b strings.Builder
	for e, err := range r.Logs(ctx, name, runtime.LogOptions{Follow: true}) {
		if err != nil {
			t.Fatalf("%v after %q", err, b.String())
		}
		b.Write(e.Line)
	}
	return b.String()
}

// outcome runs a module to its end.
func outcome(t *testing.T, r *containerd.Runtime, options string) (log string, code int) {
	t.Helper()
	create(t, r, "once", options)
	defer func() {
		if err := r.Remove(context.Background(), "once"); err != nil {
			t.Error(err)
		}
	}()
	start(t, r, "once")
	log = output(t, r, "once")
	st, err := r.Get(t.Context(), "once")
	if err != nil || st.Status != runtime.StatusExited {
		t.Fatalf("state %+v, %v", st, err)
	}
	return log, st.ExitCode
}

func TestOptionsReachTheContainer(t *testing.T) {
	r := engine(t)
	data := t.TempDir()
	for name, tc := range map[string]struct{ options, want string }{
		"env": {
			`{"Env":["A=1","FROM_IMAGE"],"Cmd":["env=A","env=FROM_IMAGE","env=HOSTNAME"]}`,
			"1 true\n false\nonce true\n",
		},
		"image env":      {`{"Cmd":["env=FROM_IMAGE"]}`, "yes true\n"},
		"user by name":   {`{"User":"worker","Cmd":["id"],"HostConfig":{"GroupAdd":["video","777"]}}`, "1234 2345 [20 44 777 2345]\n"},
		"user by number": {`{"User":"55:66","Cmd":["id"]}`, "55 66 [66]\n"},
		"hostname":       {`{"Hostname":"box","Cmd":["cat=/etc/hostname","cat=/proc/sys/kernel/hostname"]}`, "box\nbox\n"},
		"bind":           {`{"Cmd":["touch=/mnt/x","cat=/mnt/x"],"HostConfig":{"Binds":["` + data + `/new:/mnt"]}}`, "touched\n"},
		"volume filled":  {`{"Cmd":["cat=/data/seed"],"HostConfig":{"Binds":["vol:/data"]}}`, "from the image\n"},
		"tmpfs":          {`{"Cmd":["touch=/scratch/x","cat=/scratch/x"],"HostConfig":{"Tmpfs":{"/scratch":"size=1m"},"ReadonlyRootfs":true}}`, "touched\n"},
		"dns":            {`{"Cmd":["cat=/etc/resolv.conf"],"HostConfig":{"Dns":["9.9.9.9"],"DnsSearch":["x.test"],"DnsOptions":["ndots:1"]}}`, "nameserver 9.9.9.9\nsearch x.test\noptions ndots:1\n"},
		"sysctl":         {`{"Cmd":["cat=/proc/sys/net/core/somaxconn"],"HostConfig":{"Sysctls":{"net.core.somaxconn":"77"}}}`, "77\n"},
		"extra host":     {`{"Cmd":["watch=/etc/hosts~1.2.3.4\tthere","watch=/etc/hosts~172.30.77.1\tgw","say=ok"],"HostConfig":{"ExtraHosts":["there:1.2.3.4","gw:host-gateway"]}}`, "ok\n"},
		"host network":   {`{"Cmd":["listen=18070","get=127.0.0.1:18070","watch=/proc/net/dev~lo:","say=ok"],"HostConfig":{"NetworkMode":"host"},"NetworkingConfig":{"EndpointsConfig":{"host":{}}}}`, "hello from " + hostname(t) + "\nok\n"},
		"terminal":       {`{"Tty":true,"Cmd":["say=x","env=TERM"]}`, "x\r\nxterm true\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, code := outcome(t, r, tc.options)
			if code != 0 || got != tc.want {
				t.Errorf("exit code %d, log %q, want %q", code, got, tc.want)
			}
		})
	}
}

func TestLimitsReachTheContainer(t *testing.T) {
	r := engine(t)
	create(t, r, "small", `{"Cmd":["exit=-1"],"HostConfig":{"Memory":33554432,"PidsLimit":50,"NanoCpus":500000000,"CapDrop":["ALL"]}}`)
	start(t, r, "small")
	st, err := r.Get(t.Context(), "small")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.Pid))
	if err != nil || !strings.Contains(string(status), "CapBnd:\t0000000000000000") || !strings.Contains(string(status), "Seccomp:\t2") {
		t.Errorf("%v %s", err, status)
	}
	for files, wants := range map[string][2]string{
		"memory/memory.limit_in_bytes:memory.max": {"33554432", "33554432"},
		"pids/pids.max:pids.max":                  {"50", "50"},
		"cpu/cpu.cfs_quota_us:cpu.max":            {"50000", "50000 100000"},
	} {
		if path, got, want := cgroupValue(t, "small", files, wants); strings.TrimSpace(got) != want {
			t.Errorf("%s is %q, want %s", path, got, want)
		}
	}
}

func TestStartFailureLeavesNothing(t *testing.T) {
	r := engine(t)
	create(t, r, "broken", `{"Entrypoint":["/not there"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18099"}]}}}`)
	for range 2 {
		if err := r.Start(t.Context(), "broken"); err == nil || !strings.Contains(err.Error(), "not there") {
			t.Errorf("error %v", err)
		}
	}
	st, err := r.Get(t.Context(), "broken")
	if err != nil || st.Status == runtime.StatusRunning || st.Pid != 0 {
		t.Errorf("state %+v, %v", st, err)
	}
	// Its port is free again.
	create(t, r, "next", `{"Cmd":["exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18099"}]}}}`)
	start(t, r, "next")
}

func TestModulesFindEachOtherByNameAndAlias(t *testing.T) {
	r := engine(t)
	create(t, r, "edgeHub", `{"Cmd":["listen=8883","exit=-1"],"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"Aliases":["gateway.example"]}}}}`)
	create(t, r, "early", `{"Cmd":["get=edgeHub:8883","get=gateway.example:8883"]}`)
	start(t, r, "early") // it waits until the name appears in its hosts file
	start(t, r, "edgeHub")
	if got, want := output(t, r, "early"), "hello from edgeHub\nhello from edgeHub\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
	create(t, r, "watcher", `{"Cmd":["watch=/etc/hosts~gateway.example","say=seen","exit=-1"]}`)
	start(t, r, "watcher")
	if err := r.Stop(t.Context(), "edgeHub", time.Second); err != nil {
		t.Fatal(err)
	}
	st, err := r.Get(t.Context(), "watcher")
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/hosts", st.Pid))
	if err != nil || strings.Contains(string(hosts), "edgeHub") || !strings.Contains(string(hosts), "watcher") {
		t.Errorf("hosts file after edgeHub stopped: %q, %v", hosts, err)
	}
}

func dial(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	reply, err := io.ReadAll(c)
	return string(reply), err
}

func TestPublishedPorts(t *testing.T) {
	r := engine(t)
	create(t, r, "server", `{"Cmd":["listen=80","say=up","exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18080"},{"HostIp":"127.0.0.1","HostPort":"18090-18095"}]}}}`)
	start(t, r, "server")
	for range r.Logs(t.Context(), "server", runtime.LogOptions{Follow: true}) {
		break
	}
	for _, port := range []string{"18080", "18090"} {
		if got, err := dial("127.0.0.1:" + port); got != "hello from server\n" {
			t.Errorf("port %s: %q, %v", port, got, err)
		}
	}
	create(t, r, "rival", `{"Cmd":["exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18080"}]}}}`)
	var taken *network.PortError
	if err := r.Start(t.Context(), "rival"); !errors.As(err, &taken) || taken.By != "server" {
		t.Errorf("error %v, want one that names the holder", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:18081")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	create(t, r, "late", `{"Cmd":["exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18081"}]}}}`)
	if err := r.Start(t.Context(), "late"); !errors.As(err, &taken) || taken.By != "" {
		t.Errorf("error %v, want one about the host", err)
	}
	if err := r.Stop(t.Context(), "server", time.Second); err != nil {
		t.Fatal(err)
	}
	if got, err := dial("127.0.0.1:18080"); err == nil {
		t.Errorf("a stopped module answers %q", got)
	}
	start(t, r, "rival")
}

func TestPull(t *testing.T) {
	r := engine(t)
	ctx := t.Context()
	private := image("private/module:1")
	_, err := r.Pull(ctx, runtime.PullRequest{Image: private})
	if !errors.Is(err, runtime.ErrUnauthorized) {
		t.Errorf("without an account: %v", err)
	}
	auth := runtime.Auth{ServerAddress: registryHost, Username: "gate", Password: "wrong word"}
	_, err = r.Pull(ctx, runtime.PullRequest{Image: private, Auth: auth})
	if !errors.Is(err, runtime.ErrUnauthorized) || strings.Contains(err.Error(), "wrong word") {
		t.Errorf("with a wrong password: %v", err)
	}
	auth.Password = "open sesame"
	auth.ServerAddress = "elsewhere.test"
	if _, err = r.Pull(ctx, runtime.PullRequest{Image: private, Auth: auth}); !errors.Is(err, runtime.ErrUnauthorized) {
		t.Errorf("with an account for another registry: %v", err)
	}
	auth.ServerAddress = "http://" + registryHost + "/v2/"
	img, err := r.Pull(ctx, runtime.PullRequest{Image: private, Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	byDigest := image("test/plain") + "@" + img.Digest
	for _, ref := range []string{byDigest, image("test/plain:1") + "@" + img.Digest} {
		got, err := r.Pull(ctx, runtime.PullRequest{Image: ref})
		if err != nil || got.ID != img.ID {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	_, err = r.Pull(ctx, runtime.PullRequest{Image: "127.0.0.1:1/x:1"})
	if !errors.Is(err, runtime.ErrUnavailable) || !strings.Contains(err.Error(), "127.0.0.1:1/x:1") {
		t.Errorf("no registry: %v", err)
	}
	if _, err = r.Pull(ctx, runtime.PullRequest{Image: "Not A Ref"}); !errors.Is(err, runtime.ErrInvalid) {
		t.Errorf("bad reference: %v", err)
	}
}

func TestLogIsBounded(t *testing.T) {
	r := engine(t)
	create(t, r, "flood", `{"Cmd":["flood=60000","long=20000"],"HostConfig":{"LogConfig":{"Type":"json-file","Config":{"max-size":"100k","max-file":"2"}}}}`)
	start(t, r, "flood")
	output(t, r, "flood") // to the end
	var lines, partial int
	var last string
	for e, err := range r.Logs(t.Context(), "flood", runtime.LogOptions{Tail: 3}) {
		if err != nil {
			t.Fatal(err)
		}
		lines++
		if e.Partial {
			partial++
		}
		if strings.HasPrefix(string(e.Line), "line") {
			last = string(e.Line)
		}
	}
	if lines != 3 || partial != 1 || last != "line 59999\n" {
		t.Errorf("%d lines, %d pieces, last line %q", lines, partial, last)
	}
}

func TestSecondDaemonTakesOver(t *testing.T) {
	dir := home(t)
	first := open(t, dir)
	create(t, first, "survivor", `{"Cmd":["say=before","listen=80","watch=/etc/hosts~newcomer","say=after","exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18082"}]}}}`)
	create(t, first, "mortal", `{"Cmd":["watch=/mnt/go~touched","exit=7"],"HostConfig":{"Binds":["`+dir+`/shared:/mnt"],"PortBindings":{"80/tcp":[{"HostPort":"18083"}]}}}`)
	start(t, first, "survivor")
	start(t, first, "mortal")
	before, err := first.Get(t.Context(), "survivor")
	if err != nil {
		t.Fatal(err)
	}
	mortal, err := first.Get(t.Context(), "mortal")
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	// One module ends while no daemon is there.
	if err := os.WriteFile(filepath.Join(dir, "shared/go"), []byte("touched"), 0o644); err != nil {
		t.Fatal(err)
	}
	waitGone(t, mortal.Pid)

	second := open(t, dir)
	t.Cleanup(func() { closeAll(t, second) })
	got, err := second.Get(t.Context(), "mortal")
	if err != nil || got.Status != runtime.StatusExited || got.ExitCode != 7 || got.Exited.Before(got.Started) {
		t.Errorf("mortal is %+v, %v", got, err)
	}
	after, err := second.Get(t.Context(), "survivor")
	if err != nil || after.Pid != before.Pid || after.Status != runtime.StatusRunning || !after.Started.Equal(before.Started) || after.Address != before.Address {
		t.Errorf("survivor is %+v (%v), was %+v", after, err, before)
	}
	if p, err := second.ModuleOfPid(t.Context(), before.Pid); err != nil || p.Module != "survivor" || p.Instance != before.Instance {
		t.Errorf("process %+v, %v", p, err)
	}
	if got, err := dial("127.0.0.1:18082"); got != "hello from survivor\n" {
		t.Errorf("port: %q, %v", got, err)
	}
	// The port of the dead one is free, names and logs go on, and the end is seen.
	create(t, second, "newcomer", `{"Cmd":["get=survivor:80","exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18083"}]}}}`)
	start(t, second, "newcomer")
	var lines []string
	for e, err := range second.Logs(t.Context(), "survivor", runtime.LogOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if lines = append(lines, string(e.Line)); len(lines) == 2 {
			break
		}
	}
	if !slices.Equal(lines, []string{"before\n", "after\n"}) {
		t.Fatalf("log %q", lines)
	}
	events := second.Events(t.Context())
	if err := second.Stop(t.Context(), "survivor", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if e := awaitExit(t, events, "survivor"); e.ExitCode != 0 {
		t.Errorf("event %+v", e)
	}
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(data), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("process %d is still there", pid)
}

func TestForeignContainersAreInvisible(t *testing.T) {
	r := engine(t)
	foreign(t, "stranger")
	if list, err := r.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list %+v, %v", list, err)
	}
	if _, err := r.Get(t.Context(), "stranger"); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if err := r.Remove(t.Context(), "stranger"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := tryCreate(t, r, "stranger", `{}`); !errors.Is(err, runtime.ErrExists) {
		t.Errorf("create: %v", err)
	}
}

func TestVolumesOutliveTheModuleAndScratchDoesNot(t *testing.T) {
	dir := home(t)
	r := open(t, dir)
	t.Cleanup(func() { closeAll(t, r) })
	create(t, r, "keeper", `{"Cmd":["touch=/keep/x","touch=/lose/x"],"Volumes":{"/lose":{}},"HostConfig":{"Binds":["kept:/keep"]}}`)
	start(t, r, "keeper")
	output(t, r, "keeper")
	if err := r.Remove(t.Context(), "keeper"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "volumes/kept/x")); err != nil {
		t.Error(err)
	}
	for _, gone := range []string{"scratch/keeper", "logs/keeper", "hosts/keeper"} {
		if _, err := os.Stat(filepath.Join(dir, gone)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
}

func hostname(t *testing.T) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestHostNetworkIsTheDaemons(t *testing.T) {
	r := engine(t)
	create(t, r, "hosted", `{"Cmd":["listen=18071","exit=-1"],"HostConfig":{"NetworkMode":"host"}}`)
	for range 2 {
		start(t, r, "hosted")
		st, err := r.Get(t.Context(), "hosted")
		if err != nil {
			t.Fatal(err)
		}
		theirs, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", st.Pid))
		ours, err2 := os.Readlink("/proc/self/ns/net")
		if theirs != ours || err1 != nil || err2 != nil {
			t.Errorf("namespace %s (%v), want %s (%v)", theirs, err1, ours, err2)
		}
		if err := r.Stop(t.Context(), "hosted", time.Second); err != nil {
			t.Fatal(err)
		}
	}
}
