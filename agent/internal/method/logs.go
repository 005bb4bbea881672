package method

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/edged"
)

const (
	// stampLayout is the engine's timestamp before a line.
	stampLayout = "2006-01-02T15:04:05.000000000Z"
	// maxText bounds what is held of one module's log before it is compressed.
	maxText      = 16 << 20
	defaultLevel = 6
)

// moduleLog is one element of the result.
type moduleLog struct {
	ID           string  `json:"id"`
	Payload      *string `json:"payload"`
	PayloadBytes []byte  `json:"payloadBytes"`
}

// logLine is one line with contentType json.
type logLine struct {
	IoTHub    string  `json:"iothub"`
	Device    string  `json:"device"`
	ID        string  `json:"id"`
	Stream    string  `json:"stream"`
	LogLevel  int     `json:"loglevel"`
	Text      string  `json:"text"`
	Timestamp *string `json:"timestamp"`
}

func (h *Handler) logs(ctx context.Context, payload json.RawMessage) (any, error) {
	var r logRequest
	if err := decode(payload, &r); err != nil {
		return nil, err
	}
	zip, err := choice("encoding", r.Encoding, "none", "gzip")
	if err != nil {
		return nil, err
	}
	asJSON, err := choice("contentType", r.ContentType, "text", "json")
	if err != nil {
		return nil, err
	}
	items, err := r.items()
	if err != nil {
		return nil, err
	}
	list, err := h.match(ctx, items)
	if err != nil {
		return nil, err
	}
	limit := maxText
	if !zip {
		limit = maxResult
	}
	result := make([]moduleLog, 0, len(list))
	for _, s := range list {
		lines, err := h.read(ctx, s, limit)
		if err != nil {
			return nil, err
		}
		text, err := h.render(s, lines, asJSON)
		if err != nil {
			return nil, err
		}
		m := moduleLog{ID: s.module}
		if zip {
			if m.PayloadBytes, err = compress(text); err != nil {
				return nil, err
			}
		} else {
			text := string(text)
			m.Payload = &text
		}
		result = append(result, m)
	}
	return result, nil
}

// choice reads one of two words; the first is the default.
func choice(name, value, first, second string) (isSecond bool, err error) {
	switch {
	case value == "" || strings.EqualFold(value, first):
		return false, nil
	case strings.EqualFold(value, second):
		return true, nil
	}
	return false, bad("%s must be %s or %s, not %q", name, first, second, value)
}

// line is a whole line of a log, without its line break.
type line struct {
	stderr bool
	at     time.Time
	text   []byte
}

// read returns the lines that the filter selects. More than limit bytes are
// refused, unless only the last lines are wanted.
func (h *Handler) read(ctx context.Context, s selected, limit int) ([]line, error) {
	c := collector{filter: s.filter, atMost: h.opts.LevelAtMost, limit: limit}
	if err := h.daemon.Logs(ctx, s.module, s.filter.query(), c.piece); err != nil {
		return nil, err
	}
	return c.finish()
}

// collector joins pieces to lines, filters them and keeps what is wanted.
type collector struct {
	filter  logFilter
	atMost  bool
	limit   int
	open    [2]line // begun lines of both streams
	lines   []line
	size    int
	hasOpen [2]bool
}

func (c *collector) piece(l edged.LogLine) error {
	i := 0
	if l.Stderr {
		i = 1
	}
	if !c.hasOpen[i] {
		c.hasOpen[i] = true
		c.open[i] = line{stderr: l.Stderr, at: l.Time}
	}
	data, ended := bytes.CutSuffix(l.Data, []byte("\n"))
	c.open[i].text = append(c.open[i].text, data...)
	if len(c.open[i].text) > c.limit {
		return c.tooLarge()
	}
	if !ended {
		return nil
	}
	return c.close(i)
}

func (c *collector) tooLarge() error {
	return bad("the log has more than %d bytes: use the filters tail, since, until, loglevel and regex, or the encoding gzip", c.limit)
}

func (c *collector) close(i int) error {
	l := c.open[i]
	c.open[i], c.hasOpen[i] = line{}, false
	if !c.wanted(l) {
		return nil
	}
	c.lines = append(c.lines, l)
	c.size += len(l.text)
	for c.filter.tailHere() && len(c.lines) > *c.filter.Tail {
		c.size -= len(c.lines[0].text)
		c.lines = c.lines[1:]
	}
	if c.size > c.limit {
		return c.tooLarge()
	}
	return nil
}

func (c *collector) finish() ([]line, error) {
	for i := range c.open {
		if !c.hasOpen[i] {
			continue
		}
		if err := c.close(i); err != nil {
			return nil, err
		}
	}
	return c.lines, nil
}

func (c *collector) wanted(l line) bool {
	level, _, _ := parseLine(string(l.text))
	if want := c.filter.LogLevel; want != nil {
		if level > *want || level < *want && !c.atMost {
			return false
		}
	}
	return c.filter.pattern == nil || c.filter.pattern.Match(l.text)
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

func (h *Handler) render(s selected, lines []line, asJSON bool) ([]byte, error) {
	if !asJSON {
		var b bytes.Buffer
		for _, l := range lines {
			if s.filter.IncludeTimestamp {
				b.WriteString(l.at.UTC().Format(stampLayout))
				b.WriteByte(' ')
			}
			b.Write(l.text)
			b.WriteByte('\n')
		}
		return b.Bytes(), nil
	}
	list := make([]logLine, 0, len(lines))
	for _, l := range lines {
		level, stamp, text := parseLine(string(l.text))
		v := logLine{IoTHub: h.opts.HubName, Device: h.opts.DeviceID, ID: s.module, Stream: "stdout", LogLevel: level, Text: text}
		if l.stderr {
			v.Stream = "stderr"
		}
		at := l.at
		if t, err := time.Parse("2006-01-02 15:04:05.000 -07:00", stamp); err == nil {
			at = t
		}
		if !at.IsZero() {
			text := at.UTC().Format(stampLayout)
			v.Timestamp = &text
		}
		list = append(list, v)
	}
	return encode(list)
}

func compress(text []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(text); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return b.Bytes(), nil
}
