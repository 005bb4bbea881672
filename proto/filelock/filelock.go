// Package filelock gives up locks that flock(2) has on open files.
package filelock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Close gives up the lock on f, if there is one, and closes f. Closing alone is not enough:
// the lock belongs to the open file, of which a child that this program is just starting
// has a copy, and keeps the lock with it, until it runs its own program.
func Close(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}
