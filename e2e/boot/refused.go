package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Refusals hears from the kernel's audit which system calls filters have refused: the
// kernel's log leaves some out when there are many.
type Refusals struct{ socket int }

// What is not in package unix.
const (
	auditReadLog = 1    // group of netlink
	auditSeccomp = 1326 // type of message
)

// WatchRefusals begins with what is refused from now on. Only services of a Machine, whose
// systemd asks for it, are told of.
func WatchRefusals() (_ *Refusals, err error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
	if err == nil {
		if err = unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: auditReadLog}); err == nil {
			err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
		}
		if err != nil {
			err = errors.Join(err, unix.Close(socket))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("hear what filters refuse: the kernel's audit: %w", err)
	}
	return &Refusals{socket}, nil
}

// Close ends watching.
func (r *Refusals) Close() error { return unix.Close(r.socket) }

// Next returns what was refused since the last call, a line each.
func (r *Refusals) Next() ([]string, error) {
	var lines []string
	message := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(r.socket, message, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return lines, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ENOBUFS: it was faster than we
			return lines, fmt.Errorf("hear what filters refuse: %w", err)
		}
		if n > unix.SizeofNlMsghdr && binary.NativeEndian.Uint16(message[4:]) == auditSeccomp {
			lines = append(lines, strings.TrimRight(string(message[unix.SizeofNlMsghdr:n]), "\x00\n"))
		}
	}
}
