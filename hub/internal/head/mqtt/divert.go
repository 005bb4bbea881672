package mqtt

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/binary"
	"net"
)

// Other takes connections that are not those of devices and modules: registrations
// at a provisioning service share the port with them.
type Other interface {
	// Owns tells by the user name of the CONNECT packet whether a connection is its.
	Owns(username string) bool
	// ServeMQTT serves such a connection from its CONNECT packet on and returns when
	// it has ended. The deadline is that for the CONNECT packet.
	ServeMQTT(ctx context.Context, nc net.Conn, peer []*x509.Certificate)
}

// peekBytes is how far a user name is looked for.
const peekBytes = 2048

// divert serves a connection that is another's, and tells whether it was. If not,
// the connection returned is to be used in place of nc.
func (s *Server) divert(ctx context.Context, nc net.Conn, peer []*x509.Certificate) (net.Conn, bool) {
	if s.opts.Other == nil {
		return nc, false
	}
	p := &peeked{Conn: nc, r: bufio.NewReaderSize(nc, peekBytes)}
	if name, ok := peekUsername(p.r); !ok || !s.opts.Other.Owns(name) {
		return p, false
	}
	s.opts.Other.ServeMQTT(ctx, p, peer)
	return p, true
}

// peeked is a connection of which the first bytes have been looked at.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// peekUsername reads the user name in a CONNECT packet without taking it off. It
// finds none behind a will, which registrations do not have, and none in a packet of
// more than peekBytes.
func peekUsername(r *bufio.Reader) (string, bool) {
	const shortest = 12 // of a CONNECT packet
	b, err := r.Peek(2)
	if err != nil || b[0] != 1<<4 || b[1] < shortest {
		return "", false
	}
	if b, err = r.Peek(5); err != nil {
		return "", false
	}
	length, n := binary.Uvarint(b[1:])
	if n <= 0 || length < shortest || uint64(1+n)+length > peekBytes {
		return "", false // the rest is not waited for: it may never come
	}
	if b, err = r.Peek(1 + n + int(length)); err != nil {
		return "", false
	}
	b = b[1+n:]
	if _, b, err = cutString(b); err != nil || len(b) < 4 { // name of the protocol
		return "", false
	}
	const will, username = 1 << 2, 1 << 7
	if flags := b[1]; flags&will != 0 || flags&username == 0 {
		return "", false
	}
	if _, b, err = cutString(b[4:]); err != nil { // client id
		return "", false
	}
	name, _, err := cutString(b)
	return name, err == nil
}

// cutString takes a string with its size off.
func cutString(b []byte) (string, []byte, error) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return "", nil, bufio.ErrBufferFull
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return string(b[2:n]), b[n:], nil
}
