package quality

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// fileName is the file in the agent's storage folder, one scrape a line.
const fileName = "quality.jsonl"

// maxFile is the size beyond which nothing more is kept until it was sent.
const maxFile = 16 << 20

// Store keeps scrapes until they are sent. Used by one goroutine.
type Store struct{ path string }

// Open returns the store in a folder, which must exist when something is added.
func Open(folder string) *Store { return &Store{filepath.Join(folder, fileName)} }

var errFull = errors.New("no more is kept before it was sent")

// Add appends a scrape.
func (s *Store) Add(v Scrape) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("quality telemetry: %w", err)
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("quality telemetry: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size()+int64(len(b)) > maxFile {
		err = errFull
	}
	if err == nil {
		_, err = f.Write(append(b, '\n'))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("quality telemetry: %w", err)
	}
	return nil
}

// All returns the scrapes since a time, oldest first. A line that was cut off, when
// the machine lost its power, is skipped.
func (s *Store) All(since time.Time) ([]Scrape, error) {
	f, err := os.Open(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("quality telemetry: %w", err)
	}
	defer f.Close()
	var list []Scrape
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxFile)
	for lines.Scan() {
		var v Scrape
		if json.Unmarshal(lines.Bytes(), &v) == nil && !v.At.Before(since) {
			list = append(list, v)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("quality telemetry: %w", err)
	}
	return list, nil
}

// Show writes what would be sent now, a series a line, as JSON.
func (s *Store) Show(w io.Writer) error {
	list, err := s.All(time.Time{})
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, series := range Condense(list) {
		if err := enc.Encode(series); err != nil {
			return fmt.Errorf("quality telemetry: %w", err)
		}
	}
	return nil
}

// Clear forgets everything.
func (s *Store) Clear() error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("quality telemetry: %w", err)
	}
	return nil
}
