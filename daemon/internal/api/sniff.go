package api

import (
	"bytes"
	"errors"
	"io"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
)

// preface is what every HTTP/2 client sends first.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxHead bounds the part of an HTTP/1.1 request that is looked at.
const maxHead = 16 << 10

// replayed is a connection whose first bytes were read already.
type replayed struct {
	*peer.Conn
	head []byte
}

// Read gives the bytes that were read already, then the connection's.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.head) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.head)
	r.head = r.head[n:]
	return n, nil
}

// sniff reads until it is clear whether the client speaks HTTP/2, and for
// HTTP/1.1 until the end of the first request's head, whose Host it mends.
func sniff(c *peer.Conn) (*replayed, bool, error) {
	if err := c.SetReadDeadline(time.Now().Add(headTimeout)); err != nil {
		return nil, false, err
	}
	buf := make([]byte, 0, 1024)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := c.Read(buf[len(buf):min(cap(buf), maxHead)])
		buf = buf[:len(buf)+n]
		http2, done := judge(buf)
		if done || len(buf) >= maxHead {
			if !http2 {
				buf = mendHost(buf)
			}
			return &replayed{Conn: c, head: buf}, http2, c.SetReadDeadline(time.Time{})
		}
		if err != nil {
			if errors.Is(err, io.EOF) && n > 0 {
				continue
			}
			return nil, false, err
		}
	}
}

// judge tells whether b begins with the HTTP/2 preface, and whether enough is
// there to hand the connection over.
func judge(b []byte) (http2, done bool) {
	n := min(len(b), len(preface))
	if string(b[:n]) == preface[:n] {
		return true, n == len(preface)
	}
	return false, headEnd(b) > 0
}

// headEnd returns where the head's closing empty line begins, 0 when it is not
// there yet.
func headEnd(b []byte) int {
	if i := bytes.Index(b, []byte("\r\n\r\n")); i > 0 {
		return i + 2
	}
	if i := bytes.Index(b, []byte("\n\n")); i > 0 {
		return i + 1
	}
	return 0
}

// mendHost makes the request at the beginning of b acceptable to net/http when its
// Host is absent or, as with SDKs that put the socket's path there, malformed. The
// connection then ends with the response, so that no later request needs mending.
func mendHost(b []byte) []byte {
	end := headEnd(b)
	if end == 0 {
		return b
	}
	lines := bytes.SplitAfter(b[:end], []byte("\n"))
	if !bytes.Contains(lines[0], []byte(" HTTP/1.")) {
		return b // not a request that needs a Host
	}
	out := append([]byte(nil), lines[0]...)
	hosts, good := 0, true
	for _, line := range lines[1:] {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("host")):
			hosts++
			good = good && httpguts.ValidHostHeader(string(bytes.TrimSpace(value)))
		case !bytes.EqualFold(name, []byte("connection")):
			out = append(out, line...)
		}
	}
	if hosts == 1 && good || hosts > 1 {
		return b // nothing to mend, or not worth it: net/http answers 400
	}
	out = append(out, "Host: localhost\r\nConnection: close\r\n"...)
	return append(out, b[end:]...)
}
