// Package redact covers what looks like keys, tokens and passwords in text that leaves
// the device. It knows secrets by their form; one of another form, which only who wrote
// it knows, it cannot find.
//
// Lines of up to 64 KiB are looked at whole. Of a longer one, and of a private key, the
// state is kept instead: no more than that is ever held in memory, and a secret is found
// wherever the pieces of the text begin and end.
package redact

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"sync"
)

const (
	// window is how much of a line is looked at as one.
	window = 64 << 10
	// overlap is longer than all that a pattern needs to be known by.
	overlap = 4 << 10
	// longestPEM is after how many bytes a key or certificate without an end is none.
	longestPEM = 64 << 10
)

// patterns are made when they are needed for the first time: most daemons never make a
// bundle, and they take memory.
var patterns = sync.OnceValue(func() *forms {
	return &forms{
		named: regexp.MustCompile(`(?i)` +
			`(?:sharedaccesskey|accountkey)\s{0,4}[=:]\s{0,4}\\{0,8}["']?` +
			`|(?:symmetric_key|device_id_pk)\s{0,4}=\s{0,4}\{\s{0,4}value\s{0,4}=\s{0,4}["']?` +
			`|\bsig=` +
			`|authorization\\{0,8}["']?\s{0,4}[=:]\s{0,4}\[?\s{0,4}\\{0,8}["']?(?:bearer|basic)\s{1,4}` +
			`|\b(?:bearer|basic)\s{1,4}` +
			`|--(?:password|passwd|token|secret)\s{1,4}` +
			`|(?:password|passwd|passphrase|pin-value|secret|credential|api[-_]?key|(?:primary|secondary|symmetric|private|access|master|encryption)_?key|(?:access|refresh|identity|id|sas|auth)_?token|x-registry-auth|\bauth)` +
			`\\{0,8}["']?\s{0,4}[=:]\s{0,4}\\{0,8}["']?`),
		scheme:   regexp.MustCompile(`(?i)\b[a-z][a-z0-9+.-]{0,30}://`),
		keyBegin: regexp.MustCompile(`-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----`),
		keyEnd:   regexp.MustCompile(`-----END [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----`),
		public:   regexp.MustCompile(`-----(BEGIN|END) [A-Z0-9 ]{1,32}-----`),
		material: regexp.MustCompile(`^((?:\S{10,40} )?)([A-Za-z0-9+][A-Za-z0-9+/]{39,}={0,2})(\s*)$`),
		word:     regexp.MustCompile(`^[a-z]{1,20}[.,:]?$`),
	}
})

// forms are what secrets are known by.
type forms struct {
	named    *regexp.Regexp // the name of a value that is secret, up to the value
	scheme   *regexp.Regexp // the beginning of a URL
	keyBegin *regexp.Regexp // of a private key
	keyEnd   *regexp.Regexp
	public   *regexp.Regexp // the beginning or end of anything in PEM
	material *regexp.Regexp // a line that is nothing but base64, perhaps behind a time stamp
	word     *regexp.Regexp // a plain word of a sentence
}

const stars = "***"

// Writer passes text on without its secrets. Close it to get the end.
type Writer struct {
	w    io.Writer
	held []byte // not looked at yet; no whole line
	err  error

	// Within a value whose end has not come: what ends it.
	open *ending
	// Within a private key: how much of it has come; -1 if not.
	key int
	// How much may still come of a certificate or a public key; 0 outside of one.
	public int
	// The line's beginning was passed on already.
	mid bool
}

// NewWriter makes a writer onto w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, key: -1} }

// Write takes text, of which a part may be passed on later. It fails when w does.
func (r *Writer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && r.err == nil {
		line := p
		i := bytes.IndexByte(p, '\n')
		if i >= 0 {
			line = p[:i+1]
		}
		if room := window - len(r.held); len(line) > room {
			line, i = line[:room], -1
		}
		r.held = append(r.held, line...)
		p = p[len(line):]
		switch {
		case i >= 0:
			r.line(r.held, len(r.held))
			r.held, r.mid, r.open = r.held[:0], false, nil
		case len(r.held) == window:
			done := r.line(r.held, window-overlap)
			r.held, r.mid = append(r.held[:0], r.held[done:]...), true
		}
	}
	if r.err != nil {
		return 0, r.err
	}
	return n, nil
}

// Close passes on what is held. It does not close w.
func (r *Writer) Close() error {
	if r.err == nil && len(r.held) > 0 {
		r.line(r.held, len(r.held))
		r.held = nil
	}
	return r.err
}

func (r *Writer) put(text []byte) {
	if r.err == nil && len(text) > 0 {
		_, r.err = r.w.Write(text)
	}
}

// line passes text on up to most, or less if a pattern stands there, and returns how much
// that was. text is a line, or the beginning of one that is too long.
func (r *Writer) line(text []byte, most int) (done int) {
	whole := most == len(text)
	if whole && !r.mid && r.key < 0 && r.public == 0 && r.open == nil {
		if covered := coverMaterial(text); covered != nil {
			r.put(covered)
			return most
		}
	}
	r.public = max(0, r.public-most)
	f := finder{text: text}
	for done < most {
		switch {
		case r.key >= 0:
			done += r.inKey(text[done:], most-done)
		case r.open != nil:
			n, ended := r.open.find(text[done:])
			done += n
			if !ended {
				// The value goes on behind the text; the line break is no part of it.
				if whole && text[len(text)-1] == '\n' {
					r.put([]byte("\n"))
				}
				return done
			}
			r.open = nil
		default:
			done = r.plain(&f, done, most)
		}
	}
	return done
}

// coverMaterial covers a line that is what a line of a private key looks like whose
// beginning was cut off, or a symmetric key; it returns nil for others. Digests and names
// are of one case.
func coverMaterial(line []byte) []byte {
	m := patterns().material.FindSubmatch(line)
	if m == nil || !bytes.ContainsAny(m[2], "0123456789") || bytes.Equal(bytes.ToLower(m[2]), m[2]) || bytes.Equal(bytes.ToUpper(m[2]), m[2]) {
		return nil
	}
	return slices.Concat(m[1], []byte(stars), m[3])
}

// finder remembers where each pattern is found next, so that a line with many secrets is
// not searched anew for each.
type finder struct {
	text              []byte
	lower             []byte          // in lower case; nil until it is needed
	hints             [len(hints)]int // where each is found next in lower
	named, url, begin []int
}

func (f *finder) next(m *[]int, find func([]byte) []int, from int) []int {
	if *m == nil || (*m)[0] < from {
		*m = find(f.text[from:])
		for i := range *m {
			(*m)[i] += from
		}
		if *m == nil {
			*m = []int{len(f.text), len(f.text)} // nowhere
		}
	}
	return *m
}

// hints are in the names of secrets. Looking for them first is much faster.
var hints = [...][]byte{[]byte("key"), []byte("sig="), []byte("bearer"), []byte("basic"), []byte("pass"), []byte("pin-value"),
	[]byte("secret"), []byte("credential"), []byte("token"), []byte("auth"), []byte("device_id_pk")}

// beforeHint is the most that a name has before its first hint: "sharedaccess".
const beforeHint = 12

// hint is where the first hint stands from a place on; -1 if there is none.
func (f *finder) hint(from int) int {
	if f.lower == nil {
		f.lower = bytes.ToLower(f.text)
		for i := range f.hints {
			f.hints[i] = -1
		}
	}
	if len(f.lower) != len(f.text) {
		return from // places are not the same, so it may be anywhere
	}
	first := len(f.text)
	for i := range f.hints {
		if f.hints[i] < from {
			f.hints[i] = len(f.text)
			if n := bytes.Index(f.lower[from:], hints[i]); n >= 0 {
				f.hints[i] = from + n
			}
		}
		first = min(first, f.hints[i])
	}
	if first == len(f.text) {
		return -1
	}
	return first
}

func (f *finder) findNamed(text []byte) []int {
	from := len(f.text) - len(text)
	hint := f.hint(from)
	if hint < 0 {
		return nil
	}
	skip := max(0, hint-from-beforeHint)
	m := patterns().named.FindIndex(text[skip:])
	for i := range m {
		m[i] += skip
	}
	return m
}

func findKey(text []byte) []int {
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		return nil
	}
	return patterns().keyBegin.FindIndex(text)
}

// findURL finds the part of a URL before its host, if there is one: name and password, or
// a token. It returns where the URL begins, where that part ends, and where it begins.
func findURL(text []byte) []int {
	if !bytes.Contains(text, []byte("://")) {
		return nil
	}
	for from := 0; ; {
		m := patterns().scheme.FindIndex(text[from:])
		if m == nil {
			return nil
		}
		begin := from + m[1]
		host := text[begin:]
		if i := bytes.IndexAny(host, "/ \t\r\n\"'<>"); i >= 0 {
			host = host[:i]
		}
		if i := bytes.LastIndexByte(host, '@'); i > 0 {
			return []int{from + m[0], begin + i, begin}
		}
		from = begin
	}
}

// plain passes on text from a place up to the next secret, and what names it. It returns
// where it has come to.
func (r *Writer) plain(f *finder, from, most int) int {
	stop, end, cover := most, most, ""
	if m := f.next(&f.named, f.findNamed, from); m[0] < stop {
		stop, end = m[0], m[1]
	}
	isNamed := stop < most
	if m := f.next(&f.url, findURL, from); m[0] < stop {
		stop, end, isNamed = m[0], m[1], false
		cover = string(f.text[m[0]:m[2]]) + stars
	}
	if m := f.next(&f.begin, findKey, from); m[0] < stop {
		stop, end, isNamed = m[0], m[1], false
		cover = string(f.text[m[0]:m[1]]) + stars
		r.key = 0
	}
	r.follow(f.text[from:stop])
	r.put(f.text[from:stop])
	switch {
	case cover != "":
		r.put([]byte(cover))
	case isNamed:
		r.put(f.text[stop:end])
		if e := endingOf(f.text[stop:end]); e.isValue(f.text[end:]) {
			r.put([]byte(stars))
			r.open = e
		}
	}
	return end
}

// follow notes whether the text ends within a certificate or the like.
func (r *Writer) follow(text []byte) {
	if !bytes.Contains(text, []byte("-----")) {
		return
	}
	all := patterns().public.FindAllSubmatch(text, -1)
	if len(all) == 0 {
		return
	}
	r.public = 0
	if string(all[len(all)-1][1]) == "BEGIN" {
		r.public = longestPEM
	}
}

// inKey drops what is within a private key, and returns how much it has taken of text.
func (r *Writer) inKey(text []byte, most int) int {
	if m := patterns().keyEnd.FindIndex(text); m != nil && m[0] < most {
		r.key = -1
		r.put(text[m[0]:m[1]])
		return m[1]
	}
	if r.key += most; r.key > longestPEM {
		r.key = -1
		r.put([]byte("\n"))
	}
	return most
}

// ending is what ends a value.
type ending struct {
	quote string // with the backslashes before it; empty for a bare value
	doubt bool   // what follows may be the next word of a sentence
}

// bare are bytes that end a value without quotes.
const bare = " \t\r\n\"'&;,}]<>\\"

// endingOf reads it from what stands before the value.
func endingOf(name []byte) *ending {
	n := len(name)
	if name[n-1] != '"' && name[n-1] != '\'' {
		return &ending{doubt: name[0]|0x20 == 'b'} // bearer and basic
	}
	i := n - 1
	for i > 0 && name[i-1] == '\\' {
		i--
	}
	return &ending{quote: string(name[i:])}
}

// isValue tells whether what follows is to be covered: there is something, and it is no
// word of a sentence and no object that begins.
func (e *ending) isValue(text []byte) bool {
	n, _ := e.find(text)
	value := bytes.TrimSpace(text[:n])
	switch {
	case len(value) == 0 || e.quote == "" && bytes.ContainsRune([]byte("{["), rune(value[0])):
		return false
	case e.doubt:
		return len(value) >= 8 && !patterns().word.Match(value)
	}
	return true
}

// find returns where the value ends, and whether it does within text.
func (e *ending) find(text []byte) (n int, ended bool) {
	if e.quote == "" {
		if i := bytes.IndexAny(text, bare); i >= 0 {
			return i, true
		}
		return len(text), false
	}
	for at := 0; ; {
		i := bytes.Index(text[at:], []byte(e.quote))
		if i < 0 {
			return len(text), false
		}
		at += i
		// A quote behind more backslashes is one within the value.
		if at == 0 || text[at-1] != '\\' {
			return at, true
		}
		at += len(e.quote)
	}
}
