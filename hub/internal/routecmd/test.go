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

// maxLine bounds a line of input: a message of 256 KiB in any notation. A longer one
// is an input error.
const maxLine = 16 << 20

// ErrInput is wrapped by the error of Test if lines could not be read as cases.
var ErrInput = errors.New("unreadable input")

// testCase is one line of input. Members that it does not have are left to those who
// keep the cases: names, comments, expectations.
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
// evaluates the condition for that message, and writes one JSON object a line to w,
// before it reads the next:
//
//	{"result": "true" | "false" | "undefined" | "compile error", "error": "..."}
//
// A property is a string, or null for a property without a value; a number or a bool
// stands for its text. A body that is a string is the text of the body; any other
// JSON value is the body itself. The text is sent in the declared contentEncoding.
// Other members are ignored, blank lines are skipped, and lines may end with CR LF. A
// line that is no such object, or is longer than 16 MiB, gives the result "input
// error"; Test goes on, and returns an error that wraps ErrInput at the end. Other
// errors are those of r and w.
func Test(r io.Reader, w io.Writer) error {
	in := bufio.NewReaderSize(r, 64<<10)
	out := json.NewEncoder(w) // writes each line at once
	out.SetEscapeHTML(false)
	bad := 0
	for number := 1; ; number++ {
		line, readErr := readLine(in)
		if readErr != nil && !errors.Is(readErr, io.EOF) && !errors.Is(readErr, errLongLine) {
			return fmt.Errorf("read line %d: %w", number, readErr)
		}
		if number == 1 {
			line = bytes.TrimPrefix(line, []byte(byteOrderMark))
		}
		if line = bytes.TrimSpace(line); len(line) > 0 || errors.Is(readErr, errLongLine) {
			o := outcome{Result: resultInputError, Error: errLongLine.Error()}
			if len(line) > 0 {
				o = run(line)
			}
			if o.Result == resultInputError {
				bad++
			}
			if err := out.Encode(o); err != nil {
				return fmt.Errorf("write result of line %d: %w", number, err)
			}
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d lines", ErrInput, bad)
	}
	return nil
}

const byteOrderMark = "\xef\xbb\xbf"

var errLongLine = fmt.Errorf("the line is longer than %d MiB", maxLine>>20)

// readLine reads a line, the last one of the input with io.EOF. Of one that is too
// long it returns nothing but errLongLine, and has read over it.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := in.ReadSlice('\n')
		if long = long || len(line)+len(part) > maxLine; long {
			line = nil
		} else {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if long && err == nil {
			err = errLongLine
		}
		return line, err
	}
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
	if err := json.Unmarshal(line, &c); err != nil {
		return nil, nil, err
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
		switch raw := values[name]; raw[0] {
		case 'n':
			list.SetNull(name)
		case '"':
			var value string
			if err := json.Unmarshal(raw, &value); err != nil {
				return fmt.Errorf("%s.%s: %w", path, name, err)
			}
			list.Set(name, value)
		case '{', '[':
			return fmt.Errorf("%s.%s: expected a string or null", path, name)
		default: // a number or a bool
			list.Set(name, string(raw))
		}
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
