package route

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// twinChangeType is the type of messages about changed twins.
const twinChangeType = "twinChangeNotification"

// The fixed parts of sources, normalized.
const (
	twinChangeSource = "/TWINCHANGENOTIFICATIONS/"
	messagesSource   = "/MESSAGES/"
	modulesPart      = "MODULES/"
	outputsPart      = "OUTPUTS/"
)

// normalize brings the source of a route to the form in which sources compare by
// prefix: without stars at its end, with one slash at its end, and case folded.
func normalize(source string) string {
	s := strings.TrimRight(strings.TrimSpace(source), "*")
	s = strings.TrimRight(s, "/") + "/"
	return string(appendFolded(nil, s))
}

// appendFolded appends s in the case in which sources compare.
func appendFolded(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= utf8.RuneSelf {
			return appendFoldedRunes(b, s[i:])
		}
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

func appendFoldedRunes(b []byte, s string) []byte {
	for _, r := range s {
		b = utf8.AppendRune(b, unicode.ToUpper(r))
	}
	return b
}

// appendSource appends the normalized source of a message (spec edgehub-routing 2.2).
func appendSource(b []byte, m *iothub.Message) []byte {
	if kind, ok := m.System.LookupFold(iothub.MessageType); ok && strings.EqualFold(kind.Value, twinChangeType) {
		return append(b, twinChangeSource...)
	}
	b = append(b, messagesSource...)
	module := m.System.Get(iothub.ConnectionModuleID)
	if module == "" {
		return b
	}
	b = append(b, modulesPart...)
	b = appendFolded(b, strings.TrimRight(module, "/"))
	b = append(b, '/')
	output := strings.TrimRight(strings.TrimSpace(m.System.Get(iothub.OutputName)), "/")
	if output == "" {
		return b
	}
	b = append(b, outputsPart...)
	b = appendFolded(b, output)
	return append(b, '/')
}

// doubtful tells why no message can come from a normalized route source; "" if
// some can.
func doubtful(source string) string {
	parts := strings.Split(strings.Trim(source, "/"), "/")
	for i, p := range parts {
		if strings.Contains(p, "*") {
			return "never matches: the * in part " + itoa(i+1) + " of the source is not at its end, so it stands for itself"
		}
	}
	if len(parts) == 1 && parts[0] == "" {
		return ""
	}
	shapes := [][]string{
		{"TWINCHANGENOTIFICATIONS"},
		{"MESSAGES"},
		{"MESSAGES", "MODULES"},
		{"MESSAGES", "MODULES", ""},
		{"MESSAGES", "MODULES", "", "OUTPUTS"},
	}
	for _, shape := range shapes {
		if fits(parts, shape) {
			return ""
		}
	}
	if len(parts) > 4 && fits(parts[:4], shapes[len(shapes)-1]) {
		return ""
	}
	return "never matches: an edge hub has no messages from this source"
}

func fits(parts, shape []string) bool {
	if len(parts) != len(shape) {
		return false
	}
	for i := range parts {
		if shape[i] != "" && parts[i] != shape[i] {
			return false
		}
	}
	return true
}
