// Package storecmd is the command `edgehub store`: it shows what a hub has stored
// and checks it, without changing anything. The hub must not run meanwhile.
package storecmd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// ErrDamaged is wrapped by the error of Verify when something is wrong.
var ErrDamaged = errors.New("the store is damaged")

// subfolder is where a hub keeps its store within its storage folder.
const subfolder = "edgeHub"

// open opens the store in a folder, or in the one that a hub makes in it.
func open(dir string) (*store.View, string, error) {
	log := slog.New(slog.DiscardHandler)
	v, err := store.OpenView(dir, log)
	if errors.Is(err, store.ErrNoStore) {
		if below, belowErr := store.OpenView(filepath.Join(dir, subfolder), log); !errors.Is(belowErr, store.ErrNoStore) {
			v, dir, err = below, filepath.Join(dir, subfolder), belowErr
		}
	}
	if errors.Is(err, store.ErrInUse) {
		err = fmt.Errorf("%w; stop the hub first, or look at its metrics", err)
	}
	return v, dir, err
}

// Show writes what is stored: queues, and how many records there are of the rest.
func Show(w io.Writer, dir string, now time.Time) (err error) {
	v, dir, err := open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	x, err := inspect(dir, false, now)
	if err != nil {
		return err
	}
	size, err := diskUse(dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "store %s, %d bytes on disk\n\n", dir, size)
	writeQueues(w, x, now)
	buckets, err := countBuckets(v)
	if err != nil {
		return err
	}
	if len(buckets) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "\nBUCKET\tRECORDS")
		for _, name := range slices.Sorted(maps.Keys(buckets)) {
			fmt.Fprintf(t, "%s\t%d\n", name, buckets[name])
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return report(w, x)
}

// inspect looks at the messages of a store.
func inspect(dir string, deep bool, now time.Time) (*queue.Inspection, error) {
	folder, err := seglog.ReadDir(filepath.Join(dir, queue.Subfolder))
	if errors.Is(err, fs.ErrNotExist) {
		return new(queue.Inspection), nil
	}
	if err != nil {
		return nil, err
	}
	return queue.Inspect(folder, deep, now)
}

func writeQueues(w io.Writer, x *queue.Inspection, now time.Time) {
	if len(x.Queues) == 0 {
		fmt.Fprintln(w, "no queues")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ENDPOINT\tPRIORITY\tMESSAGES\tBYTES\tOLDEST")
	for _, q := range x.Queues {
		priority, age := fmt.Sprint(q.Priority), "-"
		if q.Priority == queue.DefaultPriority {
			priority = "default"
		}
		if !q.Oldest.IsZero() {
			age = now.Sub(q.Oldest).Round(time.Second).String()
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\n", q.Endpoint, priority, q.Messages, q.Bytes, age)
	}
	t.Flush()
}

// Verify reads everything and writes what it has found. The error wraps ErrDamaged
// when something is wrong.
func Verify(w io.Writer, dir string, now time.Time) (err error) {
	v, dir, err := open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	sums := v.Verify()
	x, err := inspect(dir, true, now)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, errors.Join(sums, err))
	}
	if sums != nil {
		x.Problems = append(x.Problems, sums.Error())
	}
	messages, expired := 0, 0
	for _, q := range x.Queues {
		messages += q.Messages
		expired += q.Expired
	}
	fmt.Fprintf(w, "store %s: %d queues with %d messages, %d of them expired; %d segments, %d bytes\n",
		dir, len(x.Queues), messages, expired, x.Usage.Segments, x.Usage.Bytes)
	return report(w, x)
}

func report(w io.Writer, x *queue.Inspection) error {
	for _, p := range x.Problems {
		fmt.Fprintf(w, "WRONG: %s\n", p)
	}
	if len(x.Problems) > 0 {
		return fmt.Errorf("%w: %d problems", ErrDamaged, len(x.Problems))
	}
	return nil
}

// countBuckets counts the records of each bucket.
func countBuckets(v *store.View) (map[string]int, error) {
	counts := make(map[string]int)
	err := v.Scan([]byte("b\x00"), nil, func(key, _ []byte) error {
		name, _, _ := strings.Cut(string(key[2:]), "\x00")
		counts[name]++
		return nil
	})
	return counts, err
}

// diskUse is what the files in a folder take.
func diskUse(dir string) (int64, error) {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			size += blocks(info)
		}
		return err
	})
	return size, err
}
