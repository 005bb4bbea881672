package seglog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/proto/filelock"
)

// Folder is where a log lies. Methods may be called concurrently.
type Folder interface {
	// Create makes a file of a size, in bytes, with all its blocks, or none. Its name
	// lasts after Sync only. There must be no file of that name.
	Create(name string, size int64) (File, error)
	// Open opens a file that is there.
	Open(name string) (File, error)
	// Rename replaces a file that has the new name.
	Rename(from, to string) error
	Remove(name string) error
	// Names lists the files.
	Names() ([]string, error)
	// Sync makes the names last.
	Sync() error
	// Free is how many bytes are left.
	Free() (int64, error)
	Close() error
}

// File is an open file of a Folder.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes content and size last.
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
}

// ErrInUse means that another program has the folder.
var ErrInUse = errors.New("log is in use by a running program")

// Dir is a folder of the operating system. It is made if it is not there, and locked.
func Dir(path string) (Folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: %s", ErrInUse, path)
	}
	if err == nil {
		// The folder around it may be as new.
		err = errors.Join(syncParent(path), syncParent(filepath.Dir(path)))
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return &dir{path: path, d: d}, nil
}

// ReadDir is a folder that is there, for reading. It is not locked.
func ReadDir(path string) (Folder, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &dir{path: path, d: d, readOnly: true}, nil
}

// syncParent makes the folder's own name last, unless it is another user's, who
// has then made it before.
func syncParent(path string) error {
	p, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(p.Sync(), p.Close())
}

type dir struct {
	path     string
	d        *os.File
	readOnly bool
}

func (d *dir) file(name string) string { return filepath.Join(d.path, name) }

func (d *dir) Create(name string, size int64) (File, error) {
	f, err := os.OpenFile(d.file(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Fallocate(int(f.Fd()), 0, 0, size); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = zero(f, size)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make %s of %d bytes: %w", name, size, err), f.Close(), os.Remove(d.file(name)))
	}
	return osFile{f}, nil
}

// zero takes blocks by writing them.
func zero(f *os.File, size int64) error {
	b := make([]byte, 256<<10)
	for at := int64(0); at < size; at += int64(len(b)) {
		if _, err := f.WriteAt(b[:min(int64(len(b)), size-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (d *dir) Open(name string) (File, error) {
	flag := os.O_RDWR
	if d.readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(d.file(name), flag, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d *dir) Rename(from, to string) error { return os.Rename(d.file(from), d.file(to)) }
func (d *dir) Remove(name string) error     { return os.Remove(d.file(name)) }
func (d *dir) Sync() error                  { return d.d.Sync() }
func (d *dir) Close() error                 { return filelock.Close(d.d) }

func (d *dir) Names() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (d *dir) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // an int32 on 32-bit machines
}

type osFile struct{ *os.File }

// Sync leaves times and the like to the kernel.
func (f osFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
