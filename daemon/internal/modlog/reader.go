package modlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// pollInterval is how often a following reader looks for more.
const pollInterval = 100 * time.Millisecond

// Read yields the entries of the log in dir that opts select, oldest first.
// ended is closed when nothing more will be written; a following reader then ends
// after the last entry. A reader that falls more than the log's bound behind
// misses what rotation deleted. The error of a failed read or of ctx is yielded
// last.
func Read(ctx context.Context, dir string, opts runtime.LogOptions, ended <-chan struct{}) iter.Seq2[runtime.LogEntry, error] {
	return func(yield func(runtime.LogEntry, error) bool) {
		r := reader{dir: dir, opts: opts, ended: ended, in: bufio.NewReaderSize(nil, maxRecord)}
		defer r.close()
		if err := r.run(ctx, yield); err != nil {
			yield(runtime.LogEntry{}, err)
		}
	}
}

type reader struct {
	dir   string
	opts  runtime.LogOptions
	ended <-chan struct{}

	file   *os.File
	seq    uint64
	offset int64 // of the next record in file
	in     *bufio.Reader
}

func (r *reader) run(ctx context.Context, yield func(runtime.LogEntry, error) bool) error {
	if err := r.start(); err != nil {
		return err
	}
	var until <-chan time.Time
	if r.opts.Follow && !r.opts.Until.IsZero() {
		timer := time.NewTimer(time.Until(r.opts.Until))
		defer timer.Stop()
		until = timer.C
	}
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	last := !r.opts.Follow
	for {
		more, err := r.drain(ctx, yield)
		if err != nil || !more || last {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ended:
			last = true // once more: the end came after the last look
		case <-until:
			last = true
		case <-poll.C:
		}
	}
}

// drain yields all there is now. more is false when the reader has had enough.
func (r *reader) drain(ctx context.Context, yield func(runtime.LogEntry, error) bool) (more bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		rec, err := r.next()
		if err != nil || rec == nil {
			return err == nil, err
		}
		e, err := parseRecord(rec)
		if err != nil {
			continue // a record torn by a crash
		}
		if !r.opts.Until.IsZero() && !e.Time.Before(r.opts.Until) {
			return false, nil
		}
		if e.Time.Before(r.opts.Since) {
			continue
		}
		if !yield(e, nil) {
			return false, nil
		}
	}
}

// next returns the next record, nil when there is none yet.
func (r *reader) next() ([]byte, error) {
	for {
		if r.file == nil {
			if ok, err := r.open(r.seq); err != nil || !ok {
				return nil, err
			}
		}
		rec, err := r.in.ReadSlice('\n')
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
			r.offset += int64(len(rec))
			return rec, nil
		case !errors.Is(err, io.EOF):
			return nil, fmt.Errorf("log file: %w", err)
		}
		// The file ends here for now, perhaps inside a record that is being written.
		seq, found, err := r.following()
		if err != nil {
			return nil, err
		}
		if err := r.rewind(); err != nil || !found {
			return nil, err
		}
		// The next file exists, so this one is complete: read what came in between.
		if rec, err = r.in.ReadSlice('\n'); err == nil {
			r.offset += int64(len(rec))
			return rec, nil
		}
		if err := r.file.Close(); err != nil {
			return nil, fmt.Errorf("log file: %w", err)
		}
		r.file, r.seq = nil, seq
	}
}

func (r *reader) rewind() error {
	if _, err := r.file.Seek(r.offset, io.SeekStart); err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	r.in.Reset(r.file)
	return nil
}

// following finds the file after the current one.
func (r *reader) following() (uint64, bool, error) {
	seqs, err := sequence(r.dir)
	for _, s := range seqs {
		if s > r.seq {
			return s, true, nil
		}
	}
	return 0, false, err
}

// open opens the first file with at least this number.
func (r *reader) open(seq uint64) (bool, error) {
	seqs, err := sequence(r.dir)
	if err != nil {
		return false, err
	}
	for _, s := range seqs {
		if s < seq {
			continue
		}
		f, err := os.Open(fileName(r.dir, s))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("log file: %w", err)
		}
		r.file, r.seq, r.offset = f, s, 0
		r.in.Reset(f)
		return true, nil
	}
	return false, nil
}

// start goes to the first of the last Tail records.
func (r *reader) start() error {
	if r.opts.Tail == 0 {
		return nil
	}
	want := max(r.opts.Tail, 0) // TailNone: behind the last record
	seqs, err := sequence(r.dir)
	if err != nil {
		return err
	}
	for i := len(seqs) - 1; i >= 0; i-- {
		n, err := countRecords(fileName(r.dir, seqs[i]))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // rotation was faster: begin with the oldest there is
		}
		if err != nil {
			return err
		}
		if n < want {
			want -= n
			continue
		}
		return r.skip(seqs[i], n-want)
	}
	return nil
}

func (r *reader) skip(seq uint64, records int) error {
	ok, err := r.open(seq)
	if err != nil || !ok || r.seq != seq {
		return err
	}
	for range records {
		rec, err := r.in.ReadSlice('\n')
		r.offset += int64(len(rec))
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("log file: %w", err)
		}
	}
	return nil
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close() // only read
	}
}

func countRecords(name string) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, fmt.Errorf("log file: %w", err)
	}
	defer f.Close()
	var n int
	buf := make([]byte, 64<<10)
	for {
		k, err := f.Read(buf)
		n += bytes.Count(buf[:k], []byte{'\n'})
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("log file: %w", err)
		}
	}
}
