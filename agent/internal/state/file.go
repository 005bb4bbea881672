package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// sweep removes temporary files that a crash left behind.
func sweep(dir string, names ...string) error {
	for _, name := range names {
		left, err := filepath.Glob(filepath.Join(dir, "."+name+".*"))
		if err != nil {
			return fmt.Errorf("look for temporary files: %w", err)
		}
		for _, path := range left {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("temporary file: %w", err)
			}
		}
	}
	return nil
}
