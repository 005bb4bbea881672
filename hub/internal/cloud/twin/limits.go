package twin

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Limits of spec iothub-service 5.4.
const (
	maxTags    = 8 << 10
	maxSection = 32 << 10
	maxKey     = 1 << 10
	maxString  = 4 << 10
	maxDepth   = 10
	maxInteger = 1<<52 - 1
	minInteger = -1 << 52
)

// ErrTooLarge is wrapped when a section outgrows its limit, or a twin what the disk takes.
var ErrTooLarge = errors.New("twin section too large")

// InvalidError says what in a document breaks a rule. It quotes names, not values.
type InvalidError struct {
	Path   string
	Reason string
}

// Error returns path and reason.
func (e *InvalidError) Error() string {
	if e.Path == "" {
		return e.Reason
	}
	return e.Path + ": " + e.Reason
}

func invalid(path, format string, args ...any) error {
	return &InvalidError{Path: path, Reason: fmt.Sprintf(format, args...)}
}

// checkRules looks for values that no section may hold, at any level.
func checkRules(path string, v any, depth int) error {
	switch v := v.(type) {
	case map[string]any:
		if depth > maxDepth {
			return invalid(path, "deeper than %d levels", maxDepth)
		}
		for k, child := range v {
			if err := checkKey(path, k); err != nil {
				return err
			}
			if err := checkRules(path+"."+k, child, depth+1); err != nil {
				return err
			}
		}
	case []any:
		if depth > maxDepth {
			return invalid(path, "deeper than %d levels", maxDepth)
		}
		for i, child := range v {
			if err := checkRules(path+"["+strconv.Itoa(i)+"]", child, depth+1); err != nil {
				return err
			}
		}
	case string:
		if len(v) > maxString {
			return invalid(path, "string of %d bytes, at most %d", len(v), maxString)
		}
	case json.Number:
		return checkNumber(path, v)
	}
	return nil
}

func checkKey(path, k string) error {
	if len(k) > maxKey {
		return invalid(path, "name of %d bytes, at most %d", len(k), maxKey)
	}
	for _, r := range k {
		if r == '.' || r == '$' || r == ' ' || unicode.IsControl(r) {
			return invalid(path, "name %q holds a forbidden character", k)
		}
	}
	return nil
}

func checkNumber(path string, n json.Number) error {
	if !strings.ContainsAny(n.String(), ".eE") {
		i, err := n.Int64()
		if err != nil || i < minInteger || i > maxInteger {
			return invalid(path, "integer outside %d .. %d", int64(minInteger), int64(maxInteger))
		}
		return nil
	}
	if _, err := n.Float64(); err != nil {
		return invalid(path, "number out of range")
	}
	return nil
}

// checkSection checks a whole section after a write.
func checkSection(name string, values map[string]any, limit int) error {
	if err := checkDepth(name, values, 0); err != nil {
		return err
	}
	if n := size(values); n > limit {
		return fmt.Errorf("%w: %s has %d bytes, at most %d", ErrTooLarge, name, n, limit)
	}
	return nil
}

func checkDepth(path string, v any, depth int) error {
	switch v := v.(type) {
	case map[string]any:
		if depth > maxDepth {
			return invalid(path, "deeper than %d levels", maxDepth)
		}
		for k, child := range v {
			if err := checkDepth(path+"."+k, child, depth+1); err != nil {
				return err
			}
		}
	case []any:
		for _, child := range v {
			if err := checkDepth(path, child, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// size counts as IoT Hub documents it: text without control characters, 8 for a
// number, 4 for a boolean, nothing for null and structure.
func size(v any) int {
	switch v := v.(type) {
	case map[string]any:
		n := 0
		for k, child := range v {
			n += textSize(k) + size(child)
		}
		return n
	case []any:
		n := 0
		for _, child := range v {
			n += size(child)
		}
		return n
	case string:
		return textSize(v)
	case json.Number:
		return 8
	case bool:
		return 4
	}
	return 0
}

func textSize(s string) int {
	n := len(s)
	for _, r := range s {
		if unicode.IsControl(r) {
			n -= len(string(r))
		}
	}
	return n
}
