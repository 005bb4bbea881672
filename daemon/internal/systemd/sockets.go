// Package systemd is the daemon's side of the service manager: it takes over the
// sockets that socket units have opened, and says how the daemon is. Without
// systemd both do nothing.
package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// Scheme begins a listen URI that names a socket of the service manager:
// fd://aziot-edged.mgmt.socket.
const Scheme = "fd://"

// Want is how far an inherited socket may be open to others.
type Want struct {
	// Mode has the bits that the file may have.
	Mode fs.FileMode
	// Group is the only group besides root's that the file may be open to, if Mode
	// is not for everybody; -1 for none.
	Group int
}

// Socket is an inherited socket.
type Socket struct {
	*net.UnixListener
	// Name is its unit's, or what FileDescriptorName= in the unit says; Path is
	// absolute.
	Name, Path string
}

// Sockets are those that the service manager has passed on. The zero value has
// none. It is not safe for concurrent use.
type Sockets struct{ left []Socket }

// Inherit takes over what the service manager has opened for this process, and
// removes the environment variables that tell of it, so that no child believes the
// sockets to be its own. Every socket must be a listening unix stream socket at an
// absolute path.
func Inherit() (*Sockets, error) {
	s := &Sockets{}
	var errs []error
	for _, f := range activation.Files(true) {
		socket, err := open(f)
		if err != nil {
			errs = append(errs, fmt.Errorf("inherited socket %s: %w", f.Name(), err))
			continue
		}
		s.left = append(s.left, socket)
	}
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, s.Close())...)
	}
	return s, nil
}

// open makes a listener of f, which it closes.
func open(f *os.File) (_ Socket, err error) {
	defer func() { err = errors.Join(err, f.Close()) }()
	ln, err := net.FileListener(f) // a duplicate
	if err != nil {
		return Socket{}, err
	}
	unix, ok := ln.(*net.UnixListener)
	if !ok {
		return Socket{}, errors.Join(errors.New("not a unix socket"), ln.Close())
	}
	path := unix.Addr().String()
	if !filepath.IsAbs(path) {
		return Socket{}, errors.Join(fmt.Errorf("its address %q is not an absolute path", path), ln.Close())
	}
	return Socket{UnixListener: unix, Name: f.Name(), Path: filepath.Clean(path)}, nil
}

// Take hands out the socket that a listen URI means: the one with the name of an
// fd:// URI, or one that lies at the path of a unix:// URI, so that it is not
// replaced by another. ok is false if there is none, which for fd:// is an error.
// The caller closes the socket.
func (s *Sockets) Take(uri string, want Want) (_ Socket, ok bool, err error) {
	name, byName := strings.CutPrefix(uri, Scheme)
	for i, k := range s.left {
		if byName && k.Name != name || !byName && !same(k.Path, strings.TrimPrefix(uri, "unix://")) {
			continue
		}
		if err := check(k.Path, want); err != nil {
			return Socket{}, false, fmt.Errorf("socket %s: %w", k.Name, err)
		}
		s.left = append(s.left[:i], s.left[i+1:]...)
		return k, true, nil
	}
	if byName {
		return Socket{}, false, fmt.Errorf("%s: the service manager has passed on no socket of this name: %s", uri, s.names())
	}
	return Socket{}, false, nil
}

func (s *Sockets) names() string {
	if len(s.left) == 0 {
		return "none at all (is the daemon started by its unit?)"
	}
	var names []string
	for _, k := range s.left {
		names = append(names, k.Name)
	}
	return "only " + strings.Join(names, ", ")
}

// Close closes the sockets that were not taken.
func (s *Sockets) Close() error {
	var errs []error
	for _, k := range s.left {
		errs = append(errs, k.UnixListener.Close())
	}
	s.left = nil
	return errors.Join(errs...)
}

// same tells whether two paths lead to one file, as those below /run and /var/run
// do.
func same(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// check looks whether the socket is open to others than it may be. A caller would
// still be judged by who it is; but the unit is not as it was meant.
func check(path string, want Want) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket any more", path)
	}
	perm := st.Mode().Perm()
	if perm&^want.Mode != 0 {
		return fmt.Errorf("%s has mode %04o, want at most %04o: set SocketMode= in its unit", path, perm, want.Mode)
	}
	if group, ok := groupOf(st); want.Mode&0o006 == 0 && perm&0o060 != 0 && (!ok || group != 0 && group != want.Group) {
		return fmt.Errorf("%s is open to group %d: set SocketGroup= in its unit", path, group)
	}
	return nil
}
