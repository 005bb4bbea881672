package modlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Writer appends records to a log. It may be used from several goroutines. There
// must be one Writer for a directory.
type Writer struct {
	dir      string
	settings Settings
	now      func() time.Time

	mu   sync.Mutex
	file *os.File
	seq  uint64
	size int64
	buf  []byte
	lost int // records dropped since the last successful write
}

const flushAt = 64 << 10

// NewWriter opens the log in dir, creating it if needed, and goes on where the
// last writer ended.
func NewWriter(dir string, settings Settings, now func() time.Time) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("log directory: %w", err)
	}
	w := &Writer{dir: dir, settings: settings, now: now}
	seqs, err := sequence(dir)
	if err != nil {
		return nil, err
	}
	if len(seqs) > 0 {
		w.seq = seqs[len(seqs)-1]
	}
	if w.seq == 0 {
		w.seq = 1
	}
	return w, w.reopen()
}

// reopen opens the current file. One that ends in the middle of a record, because
// its writer was killed, is left behind.
func (w *Writer) reopen() error {
	for {
		f, err := os.OpenFile(fileName(w.dir, w.seq), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("log file: %w", err)
		}
		info, err := f.Stat()
		if err != nil {
			return errors.Join(fmt.Errorf("log file: %w", err), f.Close())
		}
		last := [1]byte{'\n'}
		if info.Size() > 0 {
			if _, err := f.ReadAt(last[:], info.Size()-1); err != nil {
				return errors.Join(fmt.Errorf("log file: %w", err), f.Close())
			}
		}
		if last[0] == '\n' {
			w.file, w.size = f, info.Size()
			return nil
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("log file: %w", err)
		}
		w.seq++
	}
}

// append adds a record to the buffer. Records that cannot be written are dropped
// and counted, because a module must not stand still for its log.
func (w *Writer) append(stream runtime.Stream, k kind, text []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = appendRecord(w.buf, w.now(), stream, k, text)
	if len(w.buf) >= flushAt {
		w.flushLocked()
	}
}

// Flush writes what is buffered.
func (w *Writer) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushLocked()
}

func (w *Writer) flushLocked() {
	if len(w.buf) == 0 {
		return
	}
	defer func() { w.buf = w.buf[:0] }()
	if w.lost > 0 {
		note := fmt.Sprintf("(the log could not be written; %d records are lost)", w.lost)
		w.buf = append(appendRecord(nil, w.now(), runtime.Stderr, wholeLine, []byte(note)), w.buf...)
	}
	rest := w.buf
	for len(rest) > 0 {
		chunk := rest
		if room := w.settings.MaxSize - w.size; int64(len(chunk)) > room {
			chunk = wholeRecords(rest, room)
		}
		if len(chunk) == 0 {
			if err := w.rotateLocked(); err != nil {
				w.lost += bytes.Count(rest, []byte{'\n'})
				return
			}
			continue
		}
		n, err := w.file.Write(chunk)
		w.size += int64(n)
		if err != nil {
			// Take back the torn end, so that the file stays readable.
			whole := int64(len(wholeRecords(chunk[:n], int64(n))))
			if w.file.Truncate(w.size-int64(n)+whole) == nil {
				w.size += whole - int64(n)
			}
			w.lost += bytes.Count(rest[whole:], []byte{'\n'})
			return
		}
		rest = rest[len(chunk):]
		w.lost = 0
	}
}

// wholeRecords returns the longest prefix of at most limit bytes that ends with a
// record.
func wholeRecords(b []byte, limit int64) []byte {
	if limit <= 0 {
		return nil
	}
	if int64(len(b)) > limit {
		b = b[:limit]
	}
	return b[:bytes.LastIndexByte(b, '\n')+1]
}

func (w *Writer) rotateLocked() error {
	f, err := os.OpenFile(fileName(w.dir, w.seq+1), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	closeErr := w.file.Close()
	w.file, w.size = f, 0
	w.seq++
	seqs, err := sequence(w.dir)
	for len(seqs) > w.settings.MaxFiles {
		err = errors.Join(err, os.Remove(fileName(w.dir, seqs[0])))
		seqs = seqs[1:]
	}
	return errors.Join(closeErr, err)
}

// Close writes what is buffered and closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushLocked()
	var err error
	if w.lost > 0 {
		err = fmt.Errorf("%d log records lost", w.lost)
	}
	return errors.Join(err, w.file.Close())
}
