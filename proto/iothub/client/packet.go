package client

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// errProtocol: the hub does not keep to the protocol.
var errProtocol = errors.New("protocol error")

// maxPacket is larger than any packet of a hub: a message with its topic.
const maxPacket = 512 << 10

// idleReader fails when nothing arrives for a keep-alive interval and a quarter.
// The link pings twice per interval.
type idleReader struct {
	conn      net.Conn
	keepAlive time.Duration
}

func (r idleReader) Read(b []byte) (int, error) {
	if err := r.conn.SetReadDeadline(time.Now().Add(r.keepAlive + r.keepAlive/4)); err != nil {
		return 0, err
	}
	return r.conn.Read(b)
}

// readPacket reads one packet and refuses those that are too large before making
// room for them.
func readPacket(br *bufio.Reader) (packets.ControlPacket, error) {
	if err := checkLength(br); err != nil {
		return nil, err
	}
	return packets.ReadPacket(br)
}

// checkLength looks at the length that the next packet has, without taking it.
func checkLength(br *bufio.Reader) error {
	length := 0
	for i := range 4 {
		header, err := br.Peek(i + 2)
		if err != nil {
			return err
		}
		length |= int(header[i+1]&0x7f) << (7 * i)
		if header[i+1]&0x80 == 0 {
			if length > maxPacket {
				return fmt.Errorf("%w: packet of %d bytes", errProtocol, length)
			}
			return nil
		}
	}
	return fmt.Errorf("%w: length of a packet", errProtocol)
}
