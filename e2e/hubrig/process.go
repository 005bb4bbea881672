package hubrig

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Process is a program that was started.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done
}

type command struct {
	path   string
	args   []string
	env    []string
	log    string // file that takes standard error, and output if nobody reads it
	stdout func(line string)
}

func start(c command) (*Process, error) {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the program has its own
	p := &Process{cmd: exec.Command(c.path, c.args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), c.env...)
	p.cmd.Stderr, p.cmd.Stdout = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out io.ReadCloser
	if c.stdout != nil {
		p.cmd.Stdout = nil
		if out, err = p.cmd.StdoutPipe(); err != nil {
			return nil, err
		}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.path, err)
	}
	go func() {
		defer close(p.done)
		if out != nil {
			lines := bufio.NewScanner(out)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				c.stdout(lines.Text())
			}
		}
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// Start starts a program of another maker, for comparison; it logs to a file.
func Start(log, path string, args ...string) (*Process, error) {
	return start(command{path: path, args: args, log: log})
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how it has ended; valid after Done.
func (p *Process) Err() error { return p.err }

// Kill ends it at once (SIGKILL) and waits.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Stop ends it in an orderly way, and after the limit at once.
func (p *Process) Stop(limit time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.cmd.Path, limit)
	}
}
