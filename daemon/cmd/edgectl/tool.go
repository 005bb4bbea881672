package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// runner runs a program of the system and gives its output to stdout and stderr.
type runner func(ctx context.Context, stdout, stderr io.Writer, name string, args ...string) error

func execute(ctx context.Context, stdout, stderr io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, stdout, stderr
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

var errNoSystemd = errors.New("systemd does not run here: start and stop edged by whatever runs it")

// systemd fails when the system was not started by systemd, as sd_booted(3) tells.
func (e *env) systemd() error {
	if st, err := os.Lstat(e.path("/run/systemd/system")); err != nil || !st.IsDir() {
		return errNoSystemd
	}
	return nil
}

// systemctl runs it and shows what it says.
func (e *env) systemctl(args ...string) error {
	return e.tool(e.ctx, e.stdout, e.stderr, "systemctl", args...)
}
