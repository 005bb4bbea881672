package mqtt

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

var errFirst = errors.New("first packet is no CONNECT")

// first reads the first packet of a connection, which must be a CONNECT, before there
// is anything else of the connection. mochi would make room for all that the packet is
// said to have before it has come, and whoever says so has shown nothing of himself.
// The connection returned begins with the packet.
func (s *Server) first(ctx context.Context, nc net.Conn) (net.Conn, error) {
	unwatch := context.AfterFunc(ctx, func() { _ = nc.SetReadDeadline(time.Unix(1, 0)) })
	defer unwatch()
	packet, err := readFirst(nc, s.maxPacket())
	if err != nil {
		return nil, err
	}
	return &replayed{Conn: nc, first: packet}, ctx.Err()
}

// maxPacket is the largest packet of a client, without its fixed header.
func (s *Server) maxPacket() int { return s.opts.MaxMessageSize + topicRoom }

// readFirst reads a CONNECT packet of at most limit bytes. What it holds grows with
// what has come.
func readFirst(r io.Reader, limit int) ([]byte, error) {
	const most = 5 // bytes of a fixed header
	b := make([]byte, 2, 512)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if b[0]>>4 != packets.Connect {
		return nil, errFirst
	}
	for b[len(b)-1]&0x80 != 0 {
		if len(b) == most {
			return nil, errProtocol
		}
		b = b[:len(b)+1]
		if _, err := io.ReadFull(r, b[len(b)-1:]); err != nil {
			return nil, err
		}
	}
	length := 0
	for i, c := range b[1:] {
		length |= int(c&0x7f) << (7 * i)
	}
	if length > limit {
		return nil, errOversized
	}
	for end := len(b) + length; len(b) < end; {
		b = slices.Grow(b, 1) // doubles
		n, err := r.Read(b[len(b):min(cap(b), end)])
		b = b[:len(b)+n]
		if err != nil && len(b) < end {
			return nil, err
		}
	}
	return b, nil
}

// replayed is a connection of which the first bytes have been read.
type replayed struct {
	net.Conn
	first []byte
}

func (r *replayed) Read(b []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(b)
	}
	n := copy(b, r.first)
	if r.first = r.first[n:]; len(r.first) == 0 {
		r.first = nil
	}
	return n, nil
}
