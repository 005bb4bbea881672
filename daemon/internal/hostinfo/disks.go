package hostinfo

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Disk is a mounted file system on a block device.
type Disk struct {
	Name, FileSystem string
	// Type is SSD, HDD or Unknown.
	Type string
	// Available and Total are bytes.
	Available, Total float64
}

// Disks lists every block device that is mounted, once, in the order of mounting.
func (h Host) Disks() ([]Disk, error) {
	text, err := h.read("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("disks: %w", err)
	}
	seen := map[string]bool{}
	out := []Disk{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 3 || !strings.HasPrefix(f[0], "/dev/") || seen[f[0]] {
			continue
		}
		seen[f[0]] = true
		var st unix.Statfs_t
		if err := unix.Statfs(filepath.Join(h.Root, unescape(f[1])), &st); err != nil {
			continue // not to be seen from here
		}
		out = append(out, Disk{
			Name: unescape(f[0]), FileSystem: f[2], Type: h.diskType(f[0]),
			Available: float64(st.Bavail) * float64(st.Bsize), Total: float64(st.Blocks) * float64(st.Bsize),
		})
	}
	return out, nil
}

// diskType asks whether the device, or the disk that it is a part of, turns.
func (h Host) diskType(device string) string {
	name := filepath.Base(device)
	dir := "/sys/class/block/" + name
	if real, err := filepath.EvalSymlinks(filepath.Join(h.Root, dir)); err == nil && h.exists(dir+"/partition") {
		dir = "/sys/class/block/" + filepath.Base(filepath.Dir(real))
	}
	switch h.line(dir + "/queue/rotational") {
	case "0":
		return "SSD"
	case "1":
		return "HDD"
	}
	return "Unknown"
}

// unescape undoes the kernel's \ooo for spaces and the like.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
