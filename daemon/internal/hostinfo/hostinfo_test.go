package hostinfo_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/hostinfo"
)

// tree writes files below a new root.
func tree(t *testing.T, files map[string]string) hostinfo.Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return hostinfo.Host{Root: root}
}

func TestMachine(t *testing.T) {
	h := tree(t, map[string]string{
		"sys/class/dmi/id/sys_vendor": "Maker\n", "sys/class/dmi/id/product_name": "Box 1\n",
		"proc/cpuinfo":   "processor : 0\nflags\t\t: fpu vme hypervisor\n",
		"etc/os-release": "# comment\nID=debian\nVERSION_ID=\"12\"\n\nVARIANT='edge'\n",
	})
	if vendor, name := h.Product(); vendor != "Maker" || name != "Box 1" {
		t.Errorf("product %q %q", vendor, name)
	}
	if v := h.Virtualized(); v != "yes" {
		t.Errorf("virtualized %s", v)
	}
	if got := h.Release(); !reflect.DeepEqual(got, map[string]string{"ID": "debian", "VERSION_ID": "12", "VARIANT": "edge"}) {
		t.Errorf("release %v", got)
	}
	for text, want := range map[string]string{"flags : fpu\n": "no", "Features : fp\n": "unknown"} {
		if got := tree(t, map[string]string{"proc/cpuinfo": text}).Virtualized(); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
	empty := tree(t, nil)
	if v, n := empty.Product(); v != "" || n != "" || len(empty.Release()) != 0 || empty.Virtualized() != "unknown" {
		t.Error("something of nothing")
	}
}

func TestLoad(t *testing.T) {
	h := tree(t, map[string]string{
		"proc/uptime":  "123.45 200.00\n",
		"proc/stat":    "cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 2\n",
		"proc/meminfo": "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n",
	})
	if up, err := h.Uptime(); err != nil || up != 123.45 {
		t.Errorf("%v, %v", up, err)
	}
	if cpu, err := h.CPU(); err != nil || cpu != (hostinfo.CPU{Total: 1000e7, Idle: 850e7}) {
		t.Errorf("%+v, %v", cpu, err)
	}
	if used, total, err := h.Memory(); err != nil || used != 600*1024 || total != 1000*1024 {
		t.Errorf("%v of %v, %v", used, total, err)
	}
	for name, bad := range map[string]hostinfo.Host{
		"nothing": tree(t, nil),
		"garbage": tree(t, map[string]string{"proc/uptime": "soon\n", "proc/stat": "cpu a b c d e f g\n", "proc/meminfo": "MemTotal: x kB\n"}),
		"short":   tree(t, map[string]string{"proc/uptime": "\n", "proc/stat": "intr 1\n", "proc/meminfo": "MemTotal: 5 kB\n"}),
	} {
		if _, err := bad.Uptime(); err == nil {
			t.Errorf("%s: uptime", name)
		}
		if _, err := bad.CPU(); err == nil {
			t.Errorf("%s: processor", name)
		}
		if _, _, err := bad.Memory(); err == nil {
			t.Errorf("%s: memory", name)
		}
	}
}

func TestUsedProcessor(t *testing.T) {
	for _, c := range []struct {
		now, before hostinfo.CPU
		want        float64
	}{
		{hostinfo.CPU{Total: 200, Idle: 150}, hostinfo.CPU{Total: 100, Idle: 75}, 25},
		{hostinfo.CPU{Total: 200, Idle: 150}, hostinfo.CPU{}, 25},
		{hostinfo.CPU{Total: 200, Idle: 150}, hostinfo.CPU{Total: 200, Idle: 150}, 0},
		{hostinfo.CPU{Total: 200, Idle: 150}, hostinfo.CPU{Total: 100, Idle: 160}, 0},
	} {
		if got := c.now.Used(c.before); got != c.want {
			t.Errorf("%+v since %+v: %v, want %v", c.now, c.before, got, c.want)
		}
	}
}

func TestDisks(t *testing.T) {
	h := tree(t, map[string]string{
		"proc/self/mounts": "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/sda1 /again ext4 rw 0 0\n" +
			"/dev/vdb /my\\040data xfs rw 0 0\n/dev/vdc /gone ext4 rw 0 0\n/dev/dm-0 /dm btrfs rw 0 0\nshort\n",
		"sys/devices/sda/queue/rotational": "1\n", "sys/devices/sda/sda1/partition": "1\n",
		"sys/devices/vdb/queue/rotational": "0\n",
		"my data/x":                        "", "dm/x": "",
	})
	block := filepath.Join(h.Root, "sys/class/block")
	if err := os.MkdirAll(block, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"sda": "sda", "sda1": "sda/sda1", "vdb": "vdb"} {
		if err := os.Symlink("../../devices/"+to, filepath.Join(block, name)); err != nil {
			t.Fatal(err)
		}
	}
	disks, err := h.Disks()
	if err != nil {
		t.Fatal(err)
	}
	var got [][3]string
	for _, d := range disks {
		got = append(got, [3]string{d.Name, d.FileSystem, d.Type})
		if d.Total <= 0 || d.Available < 0 || d.Available > d.Total {
			t.Errorf("%+v", d)
		}
	}
	want := [][3]string{{"/dev/sda1", "ext4", "HDD"}, {"/dev/vdb", "xfs", "SSD"}, {"/dev/dm-0", "btrfs", "Unknown"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestThisMachine(t *testing.T) {
	h := hostinfo.Host{Root: "/"}
	up, err := h.Uptime()
	if err != nil || up <= 0 {
		t.Errorf("%v, %v", up, err)
	}
	if cpu, err := h.CPU(); err != nil || cpu.Total == 0 {
		t.Errorf("%+v, %v", cpu, err)
	}
	if used, total, err := h.Memory(); err != nil || used <= 0 || used > total {
		t.Errorf("%v of %v, %v", used, total, err)
	}
	if _, err := h.Disks(); err != nil {
		t.Error(err)
	}
}
