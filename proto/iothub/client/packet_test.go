package client

import (
	"bufio"
	"bytes"
	"errors"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestReadPacketRefusesLargePacketsBeforeMakingRoom(t *testing.T) {
	for name, tt := range map[string]struct {
		in  []byte
		err error
	}{
		"PINGRESP":                {[]byte{0xd0, 0}, nil},
		"just too large":          {[]byte{0x30, 0x81, 0x80, 0x20}, errProtocol}, // 512 KiB + 1
		"largest length":          {[]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, errProtocol},
		"length without an end":   {[]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x01}, errProtocol},
		"unknown type of packet":  {[]byte{0x00, 0x00}, errAny},
		"publish without a topic": {[]byte{0x30, 0x00}, errAny},
	} {
		_, err := readPacket(bufio.NewReader(bytes.NewReader(tt.in)))
		if tt.err == errAny && err != nil {
			continue
		}
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var errAny = errors.New("any")

func FuzzReadPacket(f *testing.F) {
	for _, p := range []packets.ControlPacket{
		puback(7), packets.NewControlPacket(packets.Suback), packets.NewControlPacket(packets.Connack),
	} {
		var b bytes.Buffer
		if err := p.Write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0x32, 7, 0, 1, 'a', 0, 9, 'x', 'y'})
	f.Fuzz(func(t *testing.T, in []byte) {
		br := bufio.NewReader(bytes.NewReader(in))
		for {
			p, err := readPacket(br)
			if err != nil {
				return
			}
			if p == nil {
				t.Fatal("neither packet nor error")
			}
		}
	})
}
