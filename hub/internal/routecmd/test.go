package routecmd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"unicode/utf16"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// maxLine bounds a line of input: a message of 256 KiB in any notation.
const maxLine = 4 << 20

// ErrInput is wrapped by the error of Test if lines could not be read as cases.
var ErrInput = errors.New("unreadable input")

// testCase is one line of input.
type testCase struct {
	Condition        *string                    `json:"condition"`
	Properties       map[string]json.RawMessage `json:"properties"`
	SystemProperties map[string]json.RawMessage `json:"systemProperties"`
	Body             json.RawMessage            `json:"body"`
}

// outcome is one line of output.
type outcome struct {
	Result string `json:"result"`
	Error  string `json:"error,omitempty"`
}

// The results of a case besides those of a condition.
const (
	resultCompileError = "compile error"
	resultInputError   = "input error"
)

// Test reads one JSON object a line from r,
//
//	{"condition": "...", "properties": {...}, "systemProperties": {...}, "body": ...}
//
// evaluates the condition for that message, and writes one JSON object a line to w:
//
//	{"result": "true" | "false" | "undefined" | "compile error", "error": "..."}
//
// A property is a string, or null for a property without a value. A body that is a
// string is the text of the body; any other JSON value is the body itself. The text
// is sent in the declared contentEncoding. Blank lines are skipped. A line that is
// no such object gives the result "input error"; Test goes on, and returns an error
// that wraps ErrInput at the end. Other errors are those of r and w.
func Test(r io.Reader, w io.Writer) error {
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	line, bad := 0, 0
	for in.Scan() {
		line++
		text := bytes.TrimSpace(in.Bytes())
		if len(text) == 0 {
			continue
		}
		o := run(text)
		if o.Result == resultInputError {
			bad++
		}
		if err := out.Encode(o); err != nil {
			return fmt.Errorf("write result of line %d: %w", line, err)
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("read line %d: %w", line+1, err)
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d lines", ErrInput, bad)
	}
	return nil
}

func run(line []byte) outcome {
	c, m, err := readCase(line)
	if err != nil {
		return outcome{Result: resultInputError, Error: err.Error()}
	}
	condition, err := route.CompileCondition(*c.Condition)
	if err != nil {
		return outcome{Result: resultCompileError, Error: err.Error()}
	}
	return outcome{Result: condition.Evaluate(m).String()}
}

func readCase(line []byte) (*testCase, *iothub.Message, error) {
	var c testCase
	in := json.NewDecoder(bytes.NewReader(line))
	in.DisallowUnknownFields()
	if err := in.Decode(&c); err != nil {
		return nil, nil, err
	}
	if in.More() {
		return nil, nil, errors.New("more than one value in a line")
	}
	if c.Condition == nil {
		return nil, nil, errors.New("no condition")
	}
	m := &iothub.Message{}
	if err := setAll(&m.Properties, "properties", c.Properties); err != nil {
		return nil, nil, err
	}
	if err := setAll(&m.System, "systemProperties", c.SystemProperties); err != nil {
		return nil, nil, err
	}
	m.Body = bodyOf(c.Body, m)
	return &c, m, nil
}

// setAll sets properties in the order of their names, so that results do not vary.
func setAll(list *iothub.Properties, path string, values map[string]json.RawMessage) error {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		raw := values[name]
		if string(raw) == "null" {
			list.SetNull(name)
			continue
		}
		var value string
		if err := json.Unmarshal(raw, &value); err != nil {
			return fmt.Errorf("%s.%s: expected a string or null", path, name)
		}
		list.Set(name, value)
	}
	return nil
}

// bodyOf encodes the body as the message declares it.
func bodyOf(raw json.RawMessage, m *iothub.Message) []byte {
	body := []byte(raw)
	var text string
	if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		body = []byte(text)
	}
	encoding, _ := m.System.LookupFold(iothub.ContentEncoding)
	var out []byte
	switch strings.ToLower(encoding.Value) {
	case "utf-16":
		for _, unit := range utf16.Encode([]rune(string(body))) {
			out = append(out, byte(unit), byte(unit>>8))
		}
	case "utf-32":
		for _, r := range string(body) {
			out = append(out, byte(r), byte(r>>8), byte(r>>16), 0)
		}
	default:
		out = body
	}
	return out
}
