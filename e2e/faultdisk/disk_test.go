//go:build e2e

package faultdisk_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/e2e/faultdisk"
)

// mounted returns a disk and the folder where it is.
func mounted(t *testing.T, m faultdisk.Metadata) (*faultdisk.Disk, string) {
	t.Helper()
	d, dir := faultdisk.New(m, 1), t.TempDir()
	if err := d.Mount(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return d, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write writes text at an offset, and syncs the file if asked to.
func write(t *testing.T, path, text string, offset int64, sync bool) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	_, err = f.WriteAt([]byte(text), offset)
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	must(t, f.Close())
}

func syncFolder(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "(none)"
	}
	must(t, err)
	return string(b)
}

func TestPowerCutDropsWhatWasNotSynced(t *testing.T) {
	d, dir := mounted(t, faultdisk.Ordered)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "one", 0, true)
	write(t, a, "two", 0, false)
	write(t, b, "new", 0, false)
	if got := content(t, a); got != "two" {
		t.Errorf("before the cut: %q", got)
	}
	must(t, d.PowerCut(faultdisk.DropAll))
	if got := content(t, a); got != "one" {
		t.Errorf("after the cut: %q, want what was synced", got)
	}
	if got := content(t, b); got != "(none)" {
		t.Errorf("file that was never synced: %q", got)
	}
}

// mapFile names the file that this program, run once more, writes through a map.
const mapFile = "FAULTDISK_MAP_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(mapFile); path != "" {
		if err := writeMap(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// writeMap writes through a memory map, of which it syncs the first part.
func writeMap(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(8192); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m, "synced")
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return err
	}
	copy(m, "gone!!")
	copy(m[4096:], "gone")
	return unix.Munmap(m)
}

func TestMemoryMapIsDurableAfterFdatasyncOnly(t *testing.T) {
	d, dir := mounted(t, faultdisk.Ordered)
	path := filepath.Join(dir, "map")
	// In another program: a page fault in this one, which serves the file system,
	// would keep the scheduler from running what answers it.
	child := exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), mapFile+"="+path)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, d.PowerCut(faultdisk.DropAll))
	want := append([]byte("synced"), make([]byte, 8192-6)...)
	if got := content(t, path); !bytes.Equal([]byte(got), want) {
		t.Errorf("%d bytes, which begin with %.10q", len(got), got)
	}
}

func TestNamesNeedASyncByTheModel(t *testing.T) {
	for m, want := range map[faultdisk.Metadata][2]string{
		faultdisk.Ordered: {"x", "y"},
		faultdisk.Own:     {"x", "(none)"}, // the sync of x does not bring y's name
		faultdisk.Strict:  {"(none)", "(none)"},
	} {
		d, dir := mounted(t, m)
		write(t, filepath.Join(dir, "y"), "", 0, false)
		write(t, filepath.Join(dir, "x"), "x", 0, true)
		must(t, d.PowerCut(faultdisk.DropAll))
		got := [2]string{content(t, filepath.Join(dir, "x")), content(t, filepath.Join(dir, "y"))}
		if m == faultdisk.Ordered {
			want[1] = "" // the name is there, the content was never synced
		}
		if got != want {
			t.Errorf("%v: got %q, want %q", m, got, want)
		}
	}
}

func TestSyncOfTheFolderMakesRenameDurable(t *testing.T) {
	d, dir := mounted(t, faultdisk.Strict)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	write(t, from, "content", 0, true)
	syncFolder(t, dir)
	must(t, os.Rename(from, to))
	must(t, d.PowerCut(faultdisk.DropAll))
	if content(t, from) != "content" || content(t, to) != "(none)" {
		t.Error("rename survived without a sync")
	}
	must(t, os.Rename(from, to))
	syncFolder(t, dir)
	must(t, d.PowerCut(faultdisk.DropAll))
	if content(t, from) != "(none)" || content(t, to) != "content" {
		t.Error("rename is lost in spite of a sync")
	}
}

func TestTearLeavesAFirstPartOfTheLastWrite(t *testing.T) {
	torn := false
	d, dir := mounted(t, faultdisk.Ordered)
	path := filepath.Join(dir, "log")
	for range 50 {
		write(t, path, "................", 0, true)
		write(t, path, "################", 0, false)
		must(t, d.PowerCut(faultdisk.Tear))
		got := content(t, path)
		n := len(got) - len(bytes.TrimLeft([]byte(got), "#"))
		if len(got) != 16 || bytes.Contains([]byte(got[n:]), []byte("#")) {
			t.Fatalf("left is %q", got)
		}
		torn = torn || n > 0 && n < 16
	}
	if !torn {
		t.Error("no write was torn in 50 cuts")
	}
}

func TestFaultsAnswerWithTheirError(t *testing.T) {
	d, dir := mounted(t, faultdisk.Ordered)
	path := filepath.Join(dir, "a")
	write(t, path, "one", 0, true)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for i, c := range []struct {
		fault      faultdisk.Fault
		grow, over error
		free       bool
	}{
		{faultdisk.Low, nil, nil, true},
		{faultdisk.Full, syscall.ENOSPC, nil, false},
		{faultdisk.Quota, syscall.ENOSPC, nil, true},
		{faultdisk.Broken, syscall.EIO, syscall.EIO, true},
	} {
		d.SetFault(c.fault)
		if _, err := f.WriteAt([]byte("x"), int64(i+1)<<20); !errors.Is(err, c.grow) {
			t.Errorf("%v: write to new space: %v", c.fault, err)
		}
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, c.over) {
			t.Errorf("%v: write over old: %v", c.fault, err)
		}
		if err := f.Sync(); !errors.Is(err, c.over) {
			t.Errorf("%v: sync: %v", c.fault, err)
		}
		var st unix.Statfs_t
		must(t, unix.Statfs(dir, &st))
		if (st.Bavail > 0) != c.free {
			t.Errorf("%v: %d blocks free", c.fault, st.Bavail)
		}
	}
	d.SetFault(faultdisk.None)
	if err := f.Sync(); err != nil {
		t.Errorf("after the fault: %v", err)
	}
}

func TestCopyOfTheMountElsewhereDoesNotKeepTheDisk(t *testing.T) {
	d, dir := mounted(t, faultdisk.Ordered)
	write(t, filepath.Join(dir, "a"), "one", 0, true)
	holder := exec.Command("unshare", "--mount", "--propagation", "private", "sleep", "60")
	must(t, holder.Start())
	defer func() {
		must(t, holder.Process.Kill())
		_ = holder.Wait() // killed
	}()
	mounts := fmt.Sprintf("/proc/%d/mounts", holder.Process.Pid)
	for {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", holder.Process.Pid))
		must(t, err)
		if string(comm) == "sleep\n" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if held, err := os.ReadFile(mounts); err != nil || !bytes.Contains(held, []byte(dir)) {
		t.Fatalf("the other program has no copy of the mount: %v", err)
	}
	must(t, d.PowerCut(faultdisk.DropAll))
	if got := content(t, filepath.Join(dir, "a")); got != "one" {
		t.Errorf("after the cut: %q", got)
	}
}
