package method

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// stampLayout is the engine's timestamp before a line.
const stampLayout = "2006-01-02T15:04:05.000000000Z"

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

// logs answers GetModuleLogs.
func (h *Handler) logs(ctx context.Context, payload json.RawMessage) (any, error) {
	var r logRequest
	if err := decode(payload, &r); err != nil {
		return nil, err
	}
	f, err := r.format()
	if err != nil {
		return nil, err
	}
	list, err := h.selection(ctx, r)
	if err != nil {
		return nil, err
	}
	result := make([]moduleLog, 0, len(list))
	left := maxResult
	for _, s := range list {
		out := bounded{left: left}
		if err := h.write(ctx, &out, s, f); err != nil {
			return nil, err
		}
		left = out.left
		m := moduleLog{ID: s.module}
		if f.gzip {
			m.PayloadBytes = out.Bytes()
		} else {
			text := out.String()
			m.Payload = &text
		}
		result = append(result, m)
	}
	return result, nil
}

// bounded holds as much as a method can return.
type bounded struct {
	bytes.Buffer
	left int
}

// Write refuses what is too much.
func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, tooLarge()
	}
	return b.Buffer.Write(p)
}

func tooLarge() error {
	return bad("the result has more than the %d bytes that a method can return: use the filters tail, since, until, loglevel and regex, the encoding gzip, or UploadModuleLogs", maxResult)
}

// format is how lines are written.
type format struct{ gzip, json bool }

// contentType, encoding and extension of a blob in this format.
func (f format) contentType() string {
	if f.json {
		return "application/json"
	}
	return "text/plain"
}

func (f format) encoding() string {
	if f.gzip {
		return "gzip"
	}
	return ""
}

func (f format) extension() string {
	ext := "log"
	if f.json {
		ext = "json"
	}
	if f.gzip {
		ext += ".gz"
	}
	return ext
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

// write writes the selected lines of one log to w.
func (h *Handler) write(ctx context.Context, w io.Writer, s selected, f format) error {
	if f.gzip {
		z := gzip.NewWriter(w)
		if err := h.lines(ctx, z, s, f); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return fmt.Errorf("gzip: %w", err)
		}
		return nil
	}
	return h.lines(ctx, w, s, f)
}

func (h *Handler) lines(ctx context.Context, w io.Writer, s selected, f format) error {
	if f.json {
		return h.array(ctx, w, s)
	}
	var buf []byte
	return h.each(ctx, s, func(l line) error {
		buf = buf[:0]
		if s.filter.IncludeTimestamp {
			buf = append(l.at.UTC().AppendFormat(buf, stampLayout), ' ')
		}
		buf = append(append(buf, l.text...), '\n')
		_, err := w.Write(buf)
		return err
	})
}

// array writes the lines as a JSON array.
func (h *Handler) array(ctx context.Context, w io.Writer, s selected) error {
	separator := "["
	err := h.each(ctx, s, func(l line) error {
		text, err := encode(h.logLine(s.module, l))
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, separator); err != nil {
			return err
		}
		separator = ","
		_, err = w.Write(text)
		return err
	})
	if err != nil {
		return err
	}
	end := "]"
	if separator == "[" {
		end = "[]"
	}
	_, err = io.WriteString(w, end)
	return err
}

func (h *Handler) logLine(module string, l line) logLine {
	level, stamp, text := parseLine(string(l.text))
	v := logLine{IoTHub: h.opts.HubName, Device: h.opts.DeviceID, ID: module, Stream: "stdout", LogLevel: level, Text: text}
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
	return v
}
