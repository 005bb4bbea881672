// Package privilege gives up the rights of root (spec edgeagent 12,
// EDGEAGENTUSER_ID).
package privilege

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Drop makes the process run as user and group id, for good, and gives it the paths
// and what is below them. A process that is not root's has nothing to give up: nil.
// After an error the process may have given up a part, and has to end.
func Drop(id int, paths ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, id, -1)
		})
		if err != nil {
			return fmt.Errorf("give %s to user %d: %w", p, id, err)
		}
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(id), syscall.Setuid(id)); err != nil {
		return fmt.Errorf("become user %d: %w", id, err)
	}
	return nil
}
