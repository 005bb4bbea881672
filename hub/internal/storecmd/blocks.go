package storecmd

import (
	"io/fs"
	"syscall"
)

// blocks is what a file takes on disk, which is less than its size if it has holes.
func blocks(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
