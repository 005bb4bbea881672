package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeFile replaces path as a whole: it is on disk, under its name, when
// writeFile returns nil.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

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
