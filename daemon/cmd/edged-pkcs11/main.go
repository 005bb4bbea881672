//go:build cgo

// Command edged-pkcs11 runs a PKCS#11 library for edged, which starts it and speaks
// to it over its standard input and output. It is of no use by hand.
//
// Usage: edged-pkcs11 LIBRARY
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/pkcs11/cryptoki"
)

func main() {
	// The daemon decides when this program ends, by closing its input: a service
	// manager that stops both at once must not take the keys from a daemon that still
	// stops its modules.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "edged-pkcs11:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: edged-pkcs11 LIBRARY")
	}
	out, err := takeStdout()
	if err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	return cryptoki.Serve(args[0], os.Stdin, out)
}

// takeStdout keeps the pipe to the daemon for itself: what a library prints goes to
// the daemon's log.
func takeStdout() (*os.File, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.Dup3(2, 1, 0); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "answers"), nil
}
