package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// ntpEpoch is the year 1900 in Unix seconds.
const ntpEpoch = -2208988800

// packet is an NTP packet of version 4 (RFC 5905, 7.3).
const packetSize = 48

// clockOffset asks a time server how far its clock is ahead.
func clockOffset(ctx context.Context, server string) (_ time.Duration, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", server)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return 0, err
		}
	}
	request := make([]byte, packetSize)
	request[0] = 4<<3 | 3 // version 4, client
	sent := time.Now()
	putTime(request[40:], sent)
	if _, err := conn.Write(request); err != nil {
		return 0, err
	}
	reply := make([]byte, 512)
	n, err := conn.Read(reply)
	if err != nil {
		return 0, err
	}
	return offsetOf(reply[:n], request[40:48], sent, time.Now())
}

// offsetOf reads the answer to a request that carried a stamp, sent and answered
// at these times of our clock.
func offsetOf(reply, stamp []byte, sent, received time.Time) (time.Duration, error) {
	switch {
	case len(reply) < packetSize:
		return 0, fmt.Errorf("answer of %d bytes", len(reply))
	case reply[0]&7 != 4:
		return 0, errors.New("answer is not a server's")
	case reply[0]>>6 == 3 || reply[1] == 0 || reply[1] > 15:
		return 0, errors.New("server does not know the time")
	case !bytes.Equal(reply[24:32], stamp):
		return 0, errors.New("answer to another request")
	}
	came, left := getTime(reply[32:]), getTime(reply[40:])
	// Halved first, so that absurd times do not overflow.
	return came.Sub(sent)/2 + left.Sub(received)/2, nil
}

func putTime(b []byte, t time.Time) {
	binary.BigEndian.PutUint32(b, uint32(t.Unix()-ntpEpoch))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}

// getTime reads seconds since 1900, or since 2036 for the small half of numbers.
func getTime(b []byte) time.Time {
	seconds := int64(binary.BigEndian.Uint32(b))
	if seconds < 1<<31 {
		seconds += 1 << 32
	}
	return time.Unix(seconds+ntpEpoch, int64(uint64(binary.BigEndian.Uint32(b[4:]))*1e9>>32))
}
