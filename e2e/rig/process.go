package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a program that the rig started on one of its hosts.
type Process struct {
	Name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when the program has ended
	err  error         // of Wait; valid after done
}

// spec says what to start.
type spec struct {
	name   string
	host   Host // empty: the machine itself
	path   string
	args   []string
	env    []string
	dir    string
	stdout func(line string) // nil: to the log
}

// start starts a program. Its output goes to the file <logs>/<name>.log.
func (r *Rig) start(s spec) (*Process, error) {
	log, err := os.OpenFile(r.logPath(s.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", s.name, err)
	}
	argv := append([]string{s.path}, s.args...)
	if s.host != "" {
		// ip replaces itself by the program: the process id stays.
		argv = append([]string{"ip", "netns", "exec", string(s.host)}, argv...)
	}
	p := &Process{Name: s.name, cmd: exec.Command(argv[0], argv[1:]...), log: log, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), s.env...)
	p.cmd.Dir = s.dir
	p.cmd.Stderr = log
	p.cmd.Stdout = log
	// A group of its own keeps Ctrl-C for us. No Pdeathsig: it fires when the
	// starting thread ends, not the process. What a killed rig leaves is removed by
	// the next one.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var lines *lineWriter
	if s.stdout != nil {
		lines = &lineWriter{emit: s.stdout}
		p.cmd.Stdout = lines
	}
	if err := p.cmd.Start(); err != nil {
		log.Close()
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
		if lines != nil {
			lines.flush()
		}
		log.Close()
	}()
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended tells whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// ExitCode is the exit status of a process that has ended, -1 if a signal ended it.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal; a process that has ended is no error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Stop asks the process to end (SIGTERM), kills it after the time limit and returns
// how it ended. An exit status other than 0 is an error.
func (p *Process) Stop(limit time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(limit):
		_ = p.Signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.Name, limit)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w", p.Name, p.err)
	}
	return nil
}

// command runs a program on a host to its end and returns its standard output.
func (r *Rig) command(ctx context.Context, h Host, env []string, path string, args ...string) (string, error) {
	argv := append([]string{"ip", "netns", "exec", string(h), path}, args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", path, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// lineWriter hands complete lines to emit.
type lineWriter struct {
	mu   sync.Mutex
	buf  []byte
	emit func(string)
}

var _ io.Writer = (*lineWriter)(nil)

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, p...)
	for {
		i := bytes.IndexByte(w.buf, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.emit(string(w.buf[:i]))
		w.buf = w.buf[i+1:]
	}
}

func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf) > 0 {
		w.emit(string(w.buf))
		w.buf = nil
	}
}

// Eventually repeats a check every interval until it returns nil, or ctx ends: then the
// error says what was waited for, and why the last check failed.
func Eventually(ctx context.Context, interval time.Duration, what string, check func() error) error {
	return poll(ctx, interval, what, func() (bool, error) {
		err := check()
		return err == nil, err
	})
}

// final is an error after which poll need not go on.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// poll calls check every interval until it returns true or a final error, or ctx
// ends. Other errors say why it is not yet so.
func poll(ctx context.Context, interval time.Duration, what string, check func() (bool, error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last error
	for {
		ok, err := check()
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		if errors.As(err, &final{}) {
			return fmt.Errorf("%s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("%s: %w (last: %w)", what, ctx.Err(), last)
			}
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
