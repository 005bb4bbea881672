package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"regexp"
)

// secrets are forms in which keys and passwords get into logs. What is kept of them
// is the first group, and the second after the stars.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`(?i)((?:SharedAccessKey|AccountKey)=)[^;"'\s\\]+()`),
	regexp.MustCompile(`(?i)(\bsig=)[^&"'\s;\\]+()`),
	regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}()`),
	regexp.MustCompile(`(?i)((?:password|passwd|pin-value|secret|api[-_]?key|primary_?key|secondary_?key|symmetric_?key)\\?["']?\s*[:=]\s*\\?["']?)[^\s"',;&?\\]+()`),
	regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^/\s:@"']+:[^/\s@"']+(@)`),
	regexp.MustCompile(`(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----)`),
}

var (
	keyBegin = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`)
	keyEnd   = regexp.MustCompile(`-----END [A-Z ]*PRIVATE KEY-----`)
	stars    = []byte("${1}***${2}")
)

// longestLine is how much of a line is looked at as one.
const longestLine = 1 << 20

// redact copies text and puts stars in place of what looks like a secret. It cannot
// know secrets of other forms, which only who wrote them into a log knows.
func redact(w io.Writer, r io.Reader) error {
	in := bufio.NewReaderSize(r, longestLine)
	inKey := false
	for {
		line, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		ended := errors.Is(err, io.EOF)
		out := line
		for _, s := range secrets {
			out = s.ReplaceAll(out, stars)
		}
		switch begin := keyBegin.FindIndex(out); {
		case inKey:
			inKey = !keyEnd.Match(out)
			out = nil
		case begin != nil && !keyEnd.Match(out[begin[1]:]):
			inKey = true
			out = append(bytes.Clone(out[:begin[1]]), "***\n"...)
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
		if ended {
			return nil
		}
	}
}
