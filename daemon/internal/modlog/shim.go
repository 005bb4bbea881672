package modlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	goruntime "runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// WriterCommand is the first argument with which the container's shim starts the log
// writer, edged-log; the second is the packed Settings.
const WriterCommand = "log-writer"

// The shim passes the module's streams and a pipe to say "ready" on.
const (
	stdoutFD = 3
	stderrFD = 4
	readyFD  = 5
)

// RunWriter is the log writer process. It returns when the module's streams have
// ended. It is deaf to SIGTERM, with which the shim only says that the end is
// near: what is still in the pipes is to be written.
func RunWriter(arg string) error {
	goruntime.GOMAXPROCS(1)
	debug.SetGCPercent(25)
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	dir, settings, err := Decode(arg)
	if err != nil {
		return err
	}
	w, err := NewWriter(dir, settings, time.Now)
	if err != nil {
		return err
	}
	stdout := os.NewFile(stdoutFD, "stdout")
	stderr := os.NewFile(stderrFD, "stderr")
	ready := os.NewFile(readyFD, "ready")
	if stdout == nil || stderr == nil || ready == nil {
		return errors.Join(errors.New("log writer: not started by a container shim"), w.Close())
	}
	if err := ready.Close(); err != nil {
		return errors.Join(fmt.Errorf("log writer: say ready: %w", err), w.Close())
	}
	return errors.Join(Copy(w, stdout, stderr), w.Close())
}

// Copy writes both streams to the log until both have ended.
func Copy(w *Writer, stdout, stderr io.Reader) error {
	var wg sync.WaitGroup
	var errs [2]error
	for i, r := range []io.Reader{stdout, stderr} {
		wg.Go(func() { errs[i] = copyStream(w, runtime.Stream(i+1), r) })
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

func copyStream(w *Writer, stream runtime.Stream, r io.Reader) error {
	defer w.Flush()
	in := bufio.NewReaderSize(r, MaxLine)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case err == nil:
			w.append(stream, wholeLine, line[:len(line)-1])
		case errors.Is(err, bufio.ErrBufferFull):
			w.append(stream, piece, line)
		default:
			if len(line) > 0 {
				w.append(stream, unended, line)
			}
			if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("module output: %w", err)
		}
		// Flush before a read that may wait, so that a reader sees all there is.
		ahead, _ := in.Peek(in.Buffered())
		if bytes.IndexByte(ahead, '\n') < 0 {
			w.Flush()
		}
	}
}
