package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"
)

// grace is how long the helper may take to end by itself.
const grace = 5 * time.Second

// helper is a running program.
type helper struct {
	cmd     *exec.Cmd
	in      *os.File
	answers chan Response // closed when the helper's output ends
	done    chan struct{} // closed when the program has ended
	err     error         // how it ended, once done is closed
	asked   uint64        // owned by the caller of ask
}

func startHelper(opt Options) (*helper, error) {
	cmd := exec.Command(opt.Program, opt.Library)
	// Not StdinPipe, which has no deadlines.
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start helper: %w", err)
	}
	defer stdin.Close()
	cmd.Stdin, cmd.Stderr = stdin, &logWriter{log: opt.Log}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start helper: %w", err), in.Close())
	}
	// One answer at a time is asked for; a second one would be a fault of the helper.
	h := &helper{cmd: cmd, in: in, answers: make(chan Response, 1), done: make(chan struct{})}
	go h.run(out)
	return h, nil
}

// run reads answers until the output ends, then waits for the program.
func (h *helper) run(out io.Reader) {
	defer close(h.done)
	for {
		var r Response
		if err := ReadFrame(out, &r); err != nil {
			break
		}
		select {
		case h.answers <- r:
			continue
		default: // nobody has asked
		}
		break
	}
	close(h.answers)
	_ = h.cmd.Process.Kill() // it may have closed its output and live on
	h.err = h.cmd.Wait()
}

func (h *helper) running() bool {
	select {
	case <-h.done:
		return false
	default:
		return true
	}
}

// ask sends a request and waits for its answer.
func (h *helper) ask(ctx context.Context, r Request) (Response, error) {
	h.asked++
	r.N = h.asked
	if until, ok := ctx.Deadline(); ok {
		if err := h.in.SetWriteDeadline(until); err != nil {
			return Response{}, err
		}
	}
	if err := WriteFrame(h.in, r); err != nil {
		return Response{}, fmt.Errorf("helper does not take a request: %w", err)
	}
	select {
	case answer, ok := <-h.answers:
		if !ok {
			<-h.done
			return Response{}, fmt.Errorf("helper has ended: %v", h.err) //nolint:errorlint // nothing to unwrap for callers
		}
		if answer.N != r.N {
			return Response{}, errors.New("helper answers what it was not asked")
		}
		return answer, nil
	case <-ctx.Done():
		return Response{}, ctx.Err()
	}
}

// end lets the helper end by itself, and waits.
func (h *helper) end() {
	_ = h.in.Close()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-h.done:
	case <-timer.C:
		h.kill()
	}
}

// kill ends the helper, and waits.
func (h *helper) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.in.Close()
	<-h.done
}

// logWriter writes the helper's lines to the log.
type logWriter struct {
	log  *slog.Logger
	mu   sync.Mutex
	line []byte
}

// maxLine bounds a line of the helper.
const maxLine = 1024

// Write takes what the helper writes.
func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rest := p; len(rest) > 0; {
		head, tail, ended := bytes.Cut(rest, []byte{'\n'})
		w.line = append(w.line, head[:min(len(head), maxLine-len(w.line))]...)
		if ended {
			w.log.Warn("pkcs11 helper", "says", string(w.line))
			w.line = w.line[:0]
		}
		rest = tail
	}
	return len(p), nil
}
