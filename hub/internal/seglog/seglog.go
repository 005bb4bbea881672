// Package seglog is a log of segment files that many streams share: what one group
// commit stores for all of them is one frame, one write and one fdatasync. Package
// queue keeps the messages of edgehub in it.
//
// Segments are made with all their blocks, so that a full disk shows when a segment
// is made, before anything of it is acknowledged, and never in the middle. A frame
// carries a checksum that begins with the id of its segment, so neither a torn end
// nor what a file held before is taken for a frame. A full segment gets a footer that
// says what of which stream lies where; a start reads footers, and frames only of
// what a crash has left without one.
//
// A segment is deleted when all that it holds is finished. Where little is left in
// some segments, it is written anew, in order, into one that takes their place.
//
// docs/on-disk.md describes the files.
package seglog

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"
)

// Errors of the package.
var (
	// ErrFull: there is no space for another segment; nothing was changed. It may
	// work later.
	ErrFull = errors.New("disk full")
	// ErrFailed: a write or sync went wrong, after which nobody knows what is on
	// disk. Permanent: the log must be opened anew.
	ErrFailed = errors.New("storage failed")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("log closed")
	// ErrTooLarge: a frame is over MaxFrame; nothing was changed.
	ErrTooLarge = errors.New("frame too large")
	// ErrVersion: another version of the program has written the log, in a form that
	// this one does not know; nothing was changed.
	ErrVersion = errors.New("log of another version")
	// ErrDamaged is wrapped by errors about what is on disk.
	ErrDamaged = errors.New("damaged")
)

const (
	// SegmentSize is the usual size of a segment, in bytes.
	SegmentSize = 8 << 20
	// MaxFrame is the largest frame, in bytes.
	MaxFrame = SegmentSize / 2
)

// Options configure Open.
type Options struct {
	// Logger; nil means slog.Default.
	Logger *slog.Logger
	// SegmentSize in bytes; 0 means SegmentSize. Tests make it small.
	SegmentSize int64
	// ReadOnly changes nothing on disk: for looking into the log of a program that
	// does not run.
	ReadOnly bool
	// UnsafeNoSync leaves out the fdatasync of Write, so that tests with a power cut
	// can prove that they would notice.
	UnsafeNoSync bool

	// Snapshot returns what the owner must know to go on from here, as of the frames
	// written so far. Called in Write and Close.
	Snapshot func() []byte
	// Restore takes the newest snapshot, in Open; it is not called for a new log.
	Restore func(state []byte) error
	// Replay takes what was written after that snapshot, in order, in Open.
	Replay func(p Part) error
	// Keep tells whether any message of a chunk is not finished; what is not kept is
	// left out when segments are written anew. Called from a goroutine of the log.
	Keep func(stream uint32, first uint64, count int) bool
	// Bodies returns the numbers of the bodies that a chunk refers to.
	Bodies func(chunk []byte) ([]int, error)
}

// Damage is a place that could not be read.
type Damage struct {
	Segment string // name of the file
	Offset  int64  // where the damage begins
	Length  int64  // up to what could be read again; -1: to the end
	Reason  string
}

func (d Damage) String() string {
	if d.Length < 0 {
		return fmt.Sprintf("segment %s from byte %d to its end: %s", d.Segment, d.Offset, d.Reason)
	}
	return fmt.Sprintf("segment %s at byte %d, %d bytes: %s", d.Segment, d.Offset, d.Length, d.Reason)
}

// noSpace tells whether an error says that the disk, or a share of it, is full.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
