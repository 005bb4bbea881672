// Package modlog keeps what a module writes to its standard streams: bounded,
// with the time and the stream of every line, and readable while it is written.
//
// A small process per module, which the container's shim starts (RunWriter), does
// the writing, so a module's output neither stops nor gets lost while the daemon
// is restarted. The daemon only reads.
//
// A log is a directory of files 0000000001.log, 0000000002.log, …; the one with
// the highest number grows, the lowest is deleted when there are too many. A
// record is one line:
//
//	2026-01-02T15:04:05.000000000Z stdout F text of the line
//
// F is a whole line, P a piece of a line that goes on in the next record of the
// stream, E the last text of a stream that ended without a newline.
package modlog

import (
	"bytes"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

const (
	// MaxLine is the longest text of one record; longer lines are split.
	MaxLine = 16 << 10

	timeLayout = "2006-01-02T15:04:05.000000000Z"
	// header is the time, a space, the stream's name, a space, the kind, a space.
	headerSize = len(timeLayout) + 1 + 6 + 1 + 1 + 1
	maxRecord  = headerSize + MaxLine + 1
)

// kind says how a record's text ends.
type kind byte

const (
	wholeLine kind = 'F'
	piece     kind = 'P'
	unended   kind = 'E'
)

func appendRecord(dst []byte, at time.Time, stream runtime.Stream, k kind, text []byte) []byte {
	dst = at.UTC().AppendFormat(dst, timeLayout)
	if stream == runtime.Stderr {
		dst = append(dst, " stderr "...)
	} else {
		dst = append(dst, " stdout "...)
	}
	dst = append(dst, byte(k), ' ')
	dst = append(dst, text...)
	return append(dst, '\n')
}

// parseRecord reads one record, which ends with its newline. The entry's line
// shares the record's memory.
func parseRecord(rec []byte) (runtime.LogEntry, error) {
	var e runtime.LogEntry
	if len(rec) < headerSize+1 || rec[len(rec)-1] != '\n' {
		return e, fmt.Errorf("log record of %d bytes is too short", len(rec))
	}
	at, err := time.Parse(timeLayout, string(rec[:len(timeLayout)]))
	if err != nil {
		return e, fmt.Errorf("log record: %w", err)
	}
	e.Time = at
	rest := rec[len(timeLayout):]
	switch {
	case bytes.HasPrefix(rest, []byte(" stdout ")):
		e.Stream = runtime.Stdout
	case bytes.HasPrefix(rest, []byte(" stderr ")):
		e.Stream = runtime.Stderr
	default:
		return e, fmt.Errorf("log record: stream %q", rest[:8])
	}
	if rest[9] != ' ' {
		return e, fmt.Errorf("log record: no space after the kind")
	}
	switch text := rest[10:]; kind(rest[8]) {
	case wholeLine:
		e.Line = text
	case piece:
		e.Line, e.Partial = text[:len(text)-1], true
	case unended:
		e.Line = text[:len(text)-1]
	default:
		return e, fmt.Errorf("log record: kind %q", rest[8])
	}
	return e, nil
}
