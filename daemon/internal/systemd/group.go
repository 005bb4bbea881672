package systemd

import (
	"io/fs"
	"syscall"
)

// groupOf returns the group id that owns a file.
func groupOf(st fs.FileInfo) (int, bool) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(sys.Gid), true
}
