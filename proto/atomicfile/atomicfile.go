// Package atomicfile replaces small files so that a power cut leaves either the
// old content or the new one, never a mixture and never an empty file. The
// daemon keeps keys, certificates and its identity cache in such files, the agent
// its state, and the local hub its keys and policies.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces the file at path with data. The new content is synced before it
// takes the name, and the directory is synced afterwards. mode is set exactly,
// whatever the umask. On an error the old content is still in place.
func Write(path string, data []byte, mode fs.FileMode) error {
	name, err := stage(path, data, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(name, path); err != nil {
		return errors.Join(fmt.Errorf("replace file: %w", err), os.Remove(name))
	}
	return syncDir(filepath.Dir(path))
}

// Create writes a file that must not exist yet. When it does, the error wraps
// fs.ErrExist and the file is left alone, also when two processes race.
func Create(path string, data []byte, mode fs.FileMode) error {
	name, err := stage(path, data, mode)
	if err != nil {
		return err
	}
	err = os.Link(name, path)
	if rmErr := os.Remove(name); err == nil && rmErr != nil {
		err = rmErr
	}
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// stage writes and syncs data under a temporary name in the same directory.
func stage(path string, data []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", fmt.Errorf("create temporary file: %w", err)
	}
	err = writeAll(f, data, mode)
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func writeAll(f *os.File, data []byte, mode fs.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write temporary file: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
