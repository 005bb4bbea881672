// Command edged-init is the first process of a module that asks for one
// (HostConfig.Init). It starts the module's command, hands signals on to it, fetches the
// exit codes of processes that have lost their parent, and ends as the command ends;
// the kernel then kills what is left in the module's process namespace.
//
// Usage: edged-init COMMAND [ARGUMENT…]
//
// Exit status: the command's; 128+n if signal n killed it; 127 if it is not there and
// 126 if it cannot be run, as of a shell.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"unsafe"
)

const (
	exitUsage      = 2
	exitNotRun     = 126
	exitNotFound   = 127
	exitSignalBase = 128

	setChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER of prctl(2)
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "edged-init: started by edged as the first process of a module, and of no use by hand")
		os.Exit(exitUsage)
	}
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "edged-init:", err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	// The ends of children come on a way of their own: however many signals there are,
	// one of these is remembered.
	ended, signals := make(chan os.Signal, 1), make(chan os.Signal, 64)
	signal.Notify(ended, syscall.SIGCHLD)
	signal.Notify(signals)
	if os.Getpid() != 1 { // in the host's process namespace
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); errno != 0 {
			return exitNotRun, fmt.Errorf("take over orphans: %w", errno)
		}
	}
	pid, code, err := start(args)
	if err != nil {
		return code, err
	}
	for {
		select {
		case <-ended:
			if code, ok := reap(pid); ok {
				return code, nil
			}
		case s := <-signals:
			if sig, ok := s.(syscall.Signal); ok && handedOn(sig) {
				_ = syscall.Kill(pid, sig) // it may be about to end
			}
		}
	}
}

// handedOn reports whether a signal is meant for the command. The others are for this
// process: about its children, about the terminal that the command has, and those that
// Go's runtime sends to itself.
func handedOn(s syscall.Signal) bool {
	switch s {
	case syscall.SIGCHLD, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGURG, syscall.SIGPIPE:
		return false
	}
	return true
}

// start runs the command in a process group of its own, in the foreground of the
// terminal if there is one.
func start(args []string) (pid, code int, err error) {
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			return 0, exitNotFound, err
		}
		return 0, exitNotRun, err
	}
	pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setpgid: true, Foreground: isTerminal(0), Ctty: 0},
	})
	if err != nil {
		return 0, exitNotRun, fmt.Errorf("run %s: %w", path, err)
	}
	return pid, 0, nil
}

func isTerminal(fd uintptr) bool {
	var settings syscall.Termios
	_, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TCGETS, uintptr(unsafe.Pointer(&settings)))
	return errno == 0
}

// reap fetches all exit codes that are there. ok says that the command's was one.
func reap(command int) (code int, ok bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil || pid <= 0:
			return code, ok
		case pid == command && status.Signaled():
			code, ok = exitSignalBase+int(status.Signal()), true
		case pid == command && status.Exited():
			code, ok = status.ExitStatus(), true
		}
	}
}
