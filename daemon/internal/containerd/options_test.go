//go:build integration

package containerd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// TestOptionsInsideTheContainer looks at what a module sees, or what the kernel says
// of it, for options that TestOptionsReachTheContainer has not.
func TestOptionsInsideTheContainer(t *testing.T) {
	r := engine(t)
	data := t.TempDir()
	check(t, os.WriteFile(filepath.Join(data, "here"), []byte("bound\n"), 0o644))
	for name, tc := range map[string]struct {
		options string
		file    string // below /proc/<pid>, or "cgroup:FILE OF V1:FILE OF V2"
		want    []string
	}{
		// Not nofile, whose soft limit a Go program raises by itself.
		"Ulimits":           {`{"HostConfig":{"Ulimits":[{"Name":"msgqueue","Soft":4096,"Hard":8192}]}}`, "limits", []string{"Max msgqueue size         4096                 8192"}},
		"OomScoreAdj":       {`{"HostConfig":{"OomScoreAdj":77}}`, "oom_score_adj", []string{"77"}},
		"ShmSize":           {`{"HostConfig":{"ShmSize":1048576}}`, "mountinfo", []string{" /dev/shm ", "size=1024k"}},
		"Tmpfs":             {`{"HostConfig":{"Tmpfs":{"/scratch":"size=2m,mode=700"}}}`, "mountinfo", []string{" /scratch rw,nosuid,nodev,noexec", "size=2048k,mode=700"}},
		"Mounts, tmpfs":     {`{"HostConfig":{"Mounts":[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":448}}]}}`, "mountinfo", []string{" /t rw,nosuid,nodev,noexec", "size=1024k,mode=700"}},
		"Mounts, bind":      {`{"HostConfig":{"Mounts":[{"Type":"bind","Source":"` + data + `","Target":"/b","ReadOnly":true}]}}`, "root/b/here", []string{"bound"}},
		"Mounts, read-only": {`{"HostConfig":{"Mounts":[{"Type":"bind","Source":"` + data + `","Target":"/b","ReadOnly":true}]}}`, "mountinfo", []string{" /b ro"}},
		"Mounts, volume":    {`{"HostConfig":{"Mounts":[{"Type":"volume","Source":"vol-m","Target":"/data"}]}}`, "root/data/seed", []string{"from the image"}},
		"Mounts, nocopy":    {`{"HostConfig":{"Mounts":[{"Type":"volume","Source":"vol-n","Target":"/data","VolumeOptions":{"NoCopy":true}}]}}`, "root/data/seed", nil},
		"Binds, read-only":  {`{"HostConfig":{"Binds":["` + data + `:/b:ro"]}}`, "mountinfo", []string{" /b ro"}},
		"Volumes":           {`{"Volumes":{"/data":{}}}`, "root/data/seed", []string{"from the image"}},
		"ReadonlyRootfs":    {`{"HostConfig":{"ReadonlyRootfs":true}}`, "mountinfo", []string{" / / ro"}},
		"CapAdd":            {`{"HostConfig":{"CapDrop":["ALL"],"CapAdd":["NET_ADMIN"]}}`, "status", []string{"CapEff:\t0000000000001000", "CapBnd:\t0000000000001000"}},
		"no-new-privileges": {`{"HostConfig":{"SecurityOpt":["no-new-privileges"]}}`, "status", []string{"NoNewPrivs:\t1"}},
		"seccomp":           {`{"HostConfig":{"SecurityOpt":["seccomp=unconfined"]}}`, "status", []string{"Seccomp:\t0"}},
		"MaskedPaths":       {`{"HostConfig":{"MaskedPaths":["/proc/version"]}}`, "mountinfo", []string{" /proc/version "}},
		"ReadonlyPaths":     {`{"HostConfig":{"ReadonlyPaths":["/proc/driver"]}}`, "mountinfo", []string{" /proc/driver ro"}},
		"Privileged":        {`{"HostConfig":{"Privileged":true}}`, "status", []string{"Seccomp:\t0", "NoNewPrivs:\t0"}},
		"Devices":           {`{"HostConfig":{"Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/dev/other","CgroupPermissions":"r"}]}}`, "root/dev/other", []string{}},
		"Domainname":        {`{"Hostname":"box","Domainname":"lan.test"}`, "root/etc/hosts", []string{"box.lan.test"}},
		"WorkingDir":        {`{"WorkingDir":"/tmp/made"}`, "cwd/.", nil},
		"Memory":            {`{"HostConfig":{"Memory":67108864,"MemoryReservation":33554432}}`, "cgroup:memory/memory.soft_limit_in_bytes:memory.low", []string{"33554432"}},
		"CpuQuota":          {`{"HostConfig":{"CpuQuota":20000,"CpuPeriod":50000}}`, "cgroup:cpu/cpu.cfs_quota_us:cpu.max", []string{"20000"}},
		"CpusetCpus":        {`{"HostConfig":{"CpusetCpus":"0"}}`, "status", []string{"Cpus_allowed_list:\t0\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			st := up(t, r, tc.options)
			path := fmt.Sprintf("/proc/%d/%s", st.Pid, tc.file)
			if files, ok := strings.CutPrefix(tc.file, "cgroup:"); ok {
				path, _ = cgroupFile("look", files)
			}
			data, err := os.ReadFile(path)
			switch {
			case tc.want == nil && name == "WorkingDir":
				if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", st.Pid)); err != nil || dir != "/tmp/made" {
					t.Errorf("%q (%v)", dir, err)
				}
				return
			case tc.want == nil:
				if !os.IsNotExist(err) {
					t.Errorf("%s is there: %q (%v)", path, data, err)
				}
				return
			case err != nil:
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if !strings.Contains(string(data), want) {
					t.Errorf("no %q in\n%s", want, data)
				}
			}
		})
	}
}

// up starts a module that the test's end removes.
func up(t *testing.T, r interface {
	runtime.Modules
	runtime.Images
}, options string) runtime.State {
	t.Helper()
	_, err := r.Pull(t.Context(), runtime.PullRequest{Image: image("test/module:1")})
	check(t, err)
	opts := parsed(t, options)
	opts.Cmd = []string{"exit=-1"}
	check(t, r.Create(t.Context(), runtime.Spec{Name: "look", Image: image("test/module:1"), Options: opts}))
	t.Cleanup(func() {
		if err := r.Remove(context.WithoutCancel(t.Context()), "look"); err != nil {
			t.Error(err)
		}
	})
	check(t, r.Start(t.Context(), "look"))
	st, err := r.Get(t.Context(), "look")
	check(t, err)
	return st
}

// cgroupFile returns the file of a module's group in the version of control groups
// that there is, and whether that is the second: files is "CONTROLLER/FILE OF V1:FILE OF V2".
func cgroupFile(module, files string) (path string, second bool) {
	v1, v2, _ := strings.Cut(files, ":")
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return filepath.Join("/sys/fs/cgroup", testNamespace, module, v2), true
	}
	controller, name, _ := strings.Cut(v1, "/")
	return filepath.Join("/sys/fs/cgroup", controller, testNamespace, module, name), false
}

// cgroupValue is what the file of cgroupFile says, and that of wants, for v1 and v2, which
// is of its version.
func cgroupValue(t *testing.T, module, files string, wants [2]string) (path, got, want string) {
	t.Helper()
	path, second := cgroupFile(module, files)
	data, err := os.ReadFile(path)
	check(t, err)
	if second {
		return path, string(data), wants[1]
	}
	return path, string(data), wants[0]
}

func TestNamespacesOfTheHost(t *testing.T) {
	r := engine(t)
	for option, kind := range map[string]string{"PidMode": "pid", "IpcMode": "ipc", "UTSMode": "uts"} {
		for mode, same := range map[string]bool{"host": true, "": false} {
			t.Run(option+" "+mode, func(t *testing.T) {
				st := up(t, r, `{"HostConfig":{"`+option+`":"`+mode+`"}}`)
				own, err := os.Readlink("/proc/self/ns/" + kind)
				check(t, err)
				theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", st.Pid, kind))
				check(t, err)
				if (own == theirs) != same {
					t.Errorf("the module's is %s, the host's %s", theirs, own)
				}
			})
		}
	}
}

// TestMessageQueuesOfTheHost looks for a queue of the host, which need not show its
// queues anywhere itself.
func TestMessageQueuesOfTheHost(t *testing.T) {
	r := engine(t)
	dir := t.TempDir()
	check(t, unix.Mount("mqueue", dir, "mqueue", 0, ""))
	t.Cleanup(func() { check(t, unix.Unmount(dir, 0)) })
	queue := fmt.Sprintf("breakwater-test-%d", os.Getpid())
	f, err := os.OpenFile(filepath.Join(dir, queue), os.O_CREATE|os.O_RDONLY, 0o600)
	check(t, err)
	check(t, f.Close())
	t.Cleanup(func() { check(t, os.Remove(filepath.Join(dir, queue))) })
	for mode, seen := range map[string]bool{"host": true, "": false} {
		t.Run("IpcMode "+mode, func(t *testing.T) {
			st := up(t, r, `{"HostConfig":{"IpcMode":"`+mode+`"}}`)
			names := readDir(t, fmt.Sprintf("/proc/%d/root/dev/mqueue", st.Pid))
			if slices.Contains(names, queue) != seen {
				t.Errorf("the module sees the queues %q", names)
			}
		})
	}
}

func readDir(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestStopSignalAndTimeout(t *testing.T) {
	r := engine(t)
	// A program that ends by SIGTERM gets SIGKILL as its stop signal: it is what ends it.
	up(t, r, `{"StopSignal":"SIGKILL"}`)
	check(t, r.Stop(t.Context(), "look", runtime.DefaultStopTimeout))
	if st, err := r.Get(t.Context(), "look"); err != nil || st.ExitCode != 137 {
		t.Errorf("exit code %d (%v), want 137", st.ExitCode, err)
	}
	check(t, r.Remove(t.Context(), "look"))
	opts := parsed(t, `{"Cmd":["stubborn","say=up","exit=-1"],"StopTimeout":1}`)
	check(t, r.Create(t.Context(), runtime.Spec{Name: "look", Image: image("test/module:1"), Options: opts}))
	check(t, r.Start(t.Context(), "look"))
	for range r.Logs(t.Context(), "look", runtime.LogOptions{Follow: true}) {
		break // it says that it is up
	}
	began := time.Now()
	check(t, r.Stop(t.Context(), "look", runtime.DefaultStopTimeout))
	if took := time.Since(began); took < time.Second || took > 8*time.Second {
		t.Errorf("stopped after %v, want 1 s", took)
	}
}
