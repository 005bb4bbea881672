package rig

import (
	"io"
	"log"
	"strings"
)

// newLog returns a logger of the kind that the registry takes.
func newLog(w io.Writer) *log.Logger { return log.New(w, "", log.LstdFlags|log.LUTC) }

// tail returns the last n lines.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
