// Package peer answers who is at the other end of a unix socket and what that
// process may ask for. The answer comes from the kernel at accept (credentials
// and a pidfd) and from the engine (process -> container -> module), never from
// anything the caller sends: headers, metadata and message fields can only make a
// request be refused.
//
// The same Guard decides for gRPC and for REST, by full method name.
package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Caller is the process that opened a connection. It is immutable, apart from the
// process's end and from what is remembered about it, and safe for concurrent use.
type Caller struct {
	Pid, UID, GID int
	// Groups are the supplementary groups, where the kernel tells them.
	Groups []int
	// Socket is the module whose socket was used; empty for the shared workload
	// socket and the management socket.
	Socket string

	handle *handle
}

// handle is a pidfd: it names the process for as long as it is held.
type handle struct {
	file *os.File
	raw  interface {
		Read(func(fd uintptr) bool) error
		Control(func(fd uintptr)) error
	}
	module atomic.Pointer[string] // of the process, once known; see Guard.Subject
}

// errGone says that the process of a connection has ended.
var errGone = errors.New("peer process has ended")

// Alive fails when the process that opened the connection has ended; its pid may
// then belong to somebody else.
func (c *Caller) Alive() error {
	if c.handle == nil {
		return errGone
	}
	gone := true
	err := c.handle.raw.Control(func(fd uintptr) { gone = exited(fd) })
	if err != nil || gone {
		return errGone
	}
	return nil
}

// exited tells whether the process of a pidfd has ended.
func exited(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err != nil || n > 0
	}
}

// Conn is an accepted connection that knows its peer. It closes itself when the
// peer process ends, so that streams do not outlive who was authorised for them.
type Conn struct {
	net.Conn
	caller *Caller
	onEnd  func()
	once   sync.Once
	watch  sync.WaitGroup
}

// Caller returns the process that opened the connection.
func (c *Conn) Caller() *Caller { return c.caller }

// Accepted asks the kernel who opened conn, which must be a unix socket's, and
// wraps it. onEnd is called once, when the connection is closed; it must not
// block. On an error conn is closed.
func Accepted(conn net.Conn, socket string, onEnd func()) (*Conn, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("not a unix connection"), conn.Close())
	}
	caller, err := identify(uc)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("peer credentials: %w", err), conn.Close())
	}
	caller.Socket = socket
	c := &Conn{Conn: conn, caller: caller, onEnd: onEnd}
	c.watch.Go(func() {
		// Returns nil at the process's end, an error when Close closed the handle.
		if caller.handle.raw.Read(exited) == nil {
			conn.Close()
		}
	})
	return c, nil
}

// Close closes the connection and forgets the process.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		if closeErr := c.caller.handle.file.Close(); err == nil {
			err = closeErr
		}
		c.watch.Wait()
		if c.onEnd != nil {
			c.onEnd()
		}
	})
	return err
}

func identify(conn *net.UnixConn) (*Caller, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Caller{}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = c.ask(int(fd)) })
	if err == nil {
		err = inner
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// soPeerPidfd is SO_PEERPIDFD (Linux 6.5).
const soPeerPidfd = 77

func (c *Caller) ask(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return err
	}
	if cred.Pid <= 0 {
		return errors.New("process is in a foreign pid namespace")
	}
	c.Pid, c.UID, c.GID = int(cred.Pid), int(cred.Uid), int(cred.Gid)
	c.Groups = peerGroups(fd)
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soPeerPidfd)
	if err != nil {
		// Older kernels: the process could have ended between connect and here, and
		// its pid be taken, only within this moment; after it the handle is firm.
		pidfd, err = unix.PidfdOpen(c.Pid, 0)
	}
	if err != nil {
		return fmt.Errorf("process handle: %w", err)
	}
	return c.hold(pidfd)
}

func (c *Caller) hold(pidfd int) error {
	unix.CloseOnExec(pidfd)
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return errors.Join(fmt.Errorf("process handle: %w", err), unix.Close(pidfd))
	}
	file := os.NewFile(uintptr(pidfd), "pidfd")
	raw, err := file.SyscallConn()
	if err != nil {
		return errors.Join(fmt.Errorf("process handle: %w", err), file.Close())
	}
	c.handle = &handle{file: file, raw: raw}
	return nil
}

type callerKey struct{}

// NewContext returns a context that carries the caller, for requests that do not
// come through gRPC.
func NewContext(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}
