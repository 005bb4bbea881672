package method

import (
	"bytes"
	"context"
	"regexp"
	"strconv"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/edged"
)

// maxLine is where a line that does not end is cut, in bytes.
const maxLine = 256 << 10

const defaultLevel = 6

// line is a whole line of a log, without its line break.
type line struct {
	stderr bool
	at     time.Time
	text   []byte
}

// each calls emit for the lines that the filter selects, in order. Nothing but the
// lines that are begun is held. When the last lines are wanted of those that the
// filter leaves, the log is read twice: to count, and to emit.
func (h *Handler) each(ctx context.Context, s selected, emit func(line) error) error {
	if !s.filter.tailHere() {
		return h.pass(ctx, s, emit)
	}
	total := 0
	if err := h.pass(ctx, s, func(line) error { total++; return nil }); err != nil {
		return err
	}
	skip, n := max(0, total-*s.filter.Tail), 0
	return h.pass(ctx, s, func(l line) error {
		n++
		if n <= skip || n > total {
			return nil
		}
		return emit(l)
	})
}

func (h *Handler) pass(ctx context.Context, s selected, emit func(line) error) error {
	j := joiner{emit: func(l line) error {
		if !h.wanted(s.filter, l) {
			return nil
		}
		return emit(l)
	}}
	if err := h.daemon.Logs(ctx, s.module, s.filter.query(), j.piece); err != nil {
		return err
	}
	return j.finish()
}

// joiner makes lines of pieces.
type joiner struct {
	emit func(line) error
	open [2]line // begun lines of both streams
	has  [2]bool
}

func (j *joiner) piece(l edged.LogLine) error {
	i := 0
	if l.Stderr {
		i = 1
	}
	if !j.has[i] {
		j.has[i] = true
		j.open[i] = line{stderr: l.Stderr, at: l.Time, text: j.open[i].text[:0]}
	}
	data, ended := bytes.CutSuffix(l.Data, []byte("\n"))
	j.open[i].text = append(j.open[i].text, data...)
	if !ended && len(j.open[i].text) < maxLine {
		return nil
	}
	return j.close(i)
}

func (j *joiner) close(i int) error {
	j.has[i] = false
	return j.emit(j.open[i])
}

func (j *joiner) finish() error {
	for i := range j.open {
		if !j.has[i] {
			continue
		}
		if err := j.close(i); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) wanted(f logFilter, l line) bool {
	if want := f.LogLevel; want != nil {
		level, _, _ := parseLine(string(l.text))
		if level > *want || level < *want && !h.opts.LevelAtMost {
			return false
		}
	}
	return f.pattern == nil || f.pattern.Match(l.text)
}

var levelPrefix = regexp.MustCompile(`^<(\d)>\s?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d\d:\d\d)?\s?`)

// parseLine reads "<N> date time offset text"; a line without <N> has level 6.
func parseLine(s string) (level int, stamp, text string) {
	m := levelPrefix.FindStringSubmatch(s)
	if m == nil {
		return defaultLevel, "", s
	}
	level, err := strconv.Atoi(m[1])
	if err != nil {
		return defaultLevel, "", s
	}
	return level, m[2], s[len(m[0]):]
}
