package route

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Error tells what is wrong with the text of a route, condition or query, and where.
type Error struct {
	Offset int    // bytes from the start of the text
	Line   int    // from 1
	Col    int    // characters from the start of the line, from 1
	Msg    string // what was found and what was expected
}

// Error returns the position and the message in one line.
func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Col, e.Msg)
}

// ErrorAt builds the error for a byte offset in text.
func ErrorAt(text string, offset int, format string, args ...any) *Error {
	line, col := position(text, offset)
	return &Error{Offset: offset, Line: line, Col: col, Msg: fmt.Sprintf(format, args...)}
}

func position(text string, offset int) (line, col int) {
	before := text[:min(offset, len(text))]
	start := strings.LastIndexByte(before, '\n') + 1
	return strings.Count(before, "\n") + 1, utf8.RuneCountInString(before[start:]) + 1
}
