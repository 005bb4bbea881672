//go:build integration

package containerd_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRatesOfADiskReachTheContainer limits what a module may do to a loop device, which
// need not be in use.
func TestRatesOfADiskReachTheContainer(t *testing.T) {
	r := engine(t)
	number := loopDevice(t)
	var major, minor uint32
	_, err := fmt.Sscanf(number, "%d:%d", &major, &minor)
	check(t, err)
	node := filepath.Join(home(t), "disk")
	check(t, unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))))
	rate := func(n int) string { return fmt.Sprintf(`[{"Path":"%s","Rate":%d}]`, node, n) }
	up(t, r, `{"HostConfig":{"BlkioDeviceReadBps":`+rate(1<<20)+`,"BlkioDeviceWriteBps":`+rate(2<<20)+
		`,"BlkioDeviceReadIOps":`+rate(30)+`,"BlkioDeviceWriteIOps":`+rate(40)+`}}`)
	for v1, wants := range map[string][2]string{
		"read_bps_device":   {"1048576", "rbps=1048576"},
		"write_bps_device":  {"2097152", "wbps=2097152"},
		"read_iops_device":  {"30", "riops=30"},
		"write_iops_device": {"40", "wiops=40"},
	} {
		path, got, want := cgroupValue(t, "look", "blkio/blkio.throttle."+v1+":io.max", wants)
		if !strings.HasPrefix(got, number+" ") || !strings.Contains(got, want) {
			t.Errorf("%s is %q, want %s for %s", path, got, want, number)
		}
	}
}

// loopDevice returns the numbers of a loop device, as "7:0".
func loopDevice(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/sys/block/loop0/dev"); errors.Is(err, os.ErrNotExist) {
		if out, err := exec.Command("modprobe", "loop").CombinedOutput(); err != nil {
			t.Fatalf("the kernel has no loop devices: %v %s", err, out)
		}
	}
	data, err := os.ReadFile("/sys/block/loop0/dev")
	check(t, err)
	return strings.TrimSpace(string(data))
}

// TestMemoryOptionsOfTheFirstVersion has effects with the first version of control
// groups; with the second, which has no such settings, modules run without.
func TestMemoryOptionsOfTheFirstVersion(t *testing.T) {
	r := engine(t)
	up(t, r, `{"HostConfig":{"MemorySwappiness":7,"OomKillDisable":true,"Memory":67108864}}`)
	for files, wants := range map[string][2]string{
		"memory/memory.swappiness:memory.max":  {"7\n", "67108864\n"},
		"memory/memory.oom_control:memory.max": {"oom_kill_disable 1\n", "67108864\n"},
	} {
		if path, got, want := cgroupValue(t, "look", files, wants); !strings.HasPrefix(got, want) {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

// TestPropagationOfBinds mounts below a folder of the host while a module has it bound,
// and in the module. The host is what containerd sees, not the namespace of the tests.
func TestPropagationOfBinds(t *testing.T) {
	r := engine(t)
	dir, host := t.TempDir(), os.Getppid()
	check(t, within(host, func() error {
		if err := unix.Mount("propagates", dir, "tmpfs", 0, ""); err != nil {
			return err
		}
		t.Cleanup(func() {
			check(t, within(host, func() error { return unix.Unmount(dir, unix.MNT_DETACH) }))
		})
		return errors.Join(unix.Mount("", dir, "", unix.MS_SHARED, ""),
			os.Mkdir(filepath.Join(dir, "host"), 0o755), os.Mkdir(filepath.Join(dir, "module"), 0o755))
	}))
	for option, tc := range map[string]struct {
		bind    string
		in, out bool // what is mounted on the host is seen in the module, and the other way
	}{
		"Binds, default":  {`"Binds":["` + dir + `:/b"]`, false, false},
		"Binds, rslave":   {`"Binds":["` + dir + `:/b:rslave"]`, true, false},
		"Binds, rshared":  {`"Binds":["` + dir + `:/b:rshared"]`, true, true},
		"Mounts, rslave":  {`"Mounts":[{"Type":"bind","Source":"` + dir + `","Target":"/b","BindOptions":{"Propagation":"rslave"}}]`, true, false},
		"Mounts, private": {`"Mounts":[{"Type":"bind","Source":"` + dir + `","Target":"/b","BindOptions":{"Propagation":"private"}}]`, false, false},
	} {
		t.Run(option, func(t *testing.T) {
			st := up(t, r, `{"HostConfig":{`+tc.bind+`}}`)
			ofHost := filepath.Join(dir, "host")
			check(t, within(host, func() error { return unix.Mount("x", ofHost, "tmpfs", 0, "") }))
			defer func() { check(t, within(host, func() error { return unix.Unmount(ofHost, 0) })) }()
			if got := mounted(t, st.Pid, "/b/host"); got != tc.in {
				t.Errorf("a mount of the host is seen in the module: %v", got)
			}
			check(t, within(st.Pid, func() error { return unix.Mount("x", "/b/module", "tmpfs", 0, "") }))
			ofModule := filepath.Join(dir, "module")
			got := mounted(t, host, ofModule)
			if got != tc.out {
				t.Errorf("a mount of the module is seen on the host: %v", got)
			}
			if got {
				check(t, within(host, func() error { return unix.Unmount(ofModule, 0) }))
			}
		})
	}
}

func mounted(t *testing.T, pid int, at string) bool {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	check(t, err)
	return strings.Contains(string(data), " "+at+" ")
}

// within calls f where the mounts are those of a process.
func within(pid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and with the goroutine ends the thread
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// TestAppArmorConfinesModules needs a kernel with AppArmor for its name to be true; where
// there is none, modules must run without.
func TestAppArmorConfinesModules(t *testing.T) {
	r := engine(t)
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	profile, free := "breakwater-module (enforce)\n", "unconfined\n"
	if !strings.HasPrefix(string(enabled), "Y") {
		profile, free = "", ""
	}
	for options, want := range map[string]string{
		`{}`: profile,
		`{"HostConfig":{"SecurityOpt":["apparmor=unconfined"]}}`: free,
		`{"HostConfig":{"Privileged":true}}`:                     free,
	} {
		t.Run(options, func(t *testing.T) {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", up(t, r, options).Pid))
			if got := string(data); got != want || (want != "") != (err == nil) {
				t.Errorf("%q (%v), want %q", got, err, want)
			}
		})
	}
}
