package events

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// An event record is one byte of format, then numbers as uvarints and texts with
// their length before them, in the order of encode.
const formatEvent = 1

var errRecord = errors.New("malformed record")

func (e *Event) encode() []byte {
	b := make([]byte, 0, 128+e.Message.Size())
	b = append(b, formatEvent)
	b = binary.AppendUvarint(b, uint64(e.Partition))
	b = binary.AppendUvarint(b, uint64(e.Sequence))
	b = binary.AppendUvarint(b, uint64(e.Offset))
	b = binary.AppendUvarint(b, uint64(e.Enqueued.UnixMilli()))
	for _, s := range []string{e.Sender.Device, e.Sender.Module, e.Generation, e.AuthMethod, e.ModelID} {
		b = appendText(b, s)
	}
	b = appendProperties(b, e.Message.System)
	b = appendProperties(b, e.Message.Properties)
	return append(b, e.Message.Body...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendProperties(b []byte, list iothub.Properties) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, p := range list {
		b = appendText(b, p.Name)
		null := byte(0)
		if p.Null {
			null = 1
		}
		b = appendText(append(b, null), p.Value)
	}
	return b
}

// header is what a record begins with.
type header struct {
	partition                  int
	sequence, offset, enqueued int64
}

func (r *reader) header() (h header) {
	h.partition = int(r.number())
	h.sequence, h.offset, h.enqueued = int64(r.number()), int64(r.number()), int64(r.number())
	return h
}

// headerOf reads the header of a record and the position in its key.
func headerOf(key, b []byte) (position uint64, h header, err error) {
	position, ok := positionOf(key)
	if !ok || len(b) == 0 || b[0] != formatEvent {
		return 0, h, errRecord
	}
	r := reader{b: b[1:]}
	if h = r.header(); r.bad {
		return 0, h, errRecord
	}
	return position, h, nil
}

// decodeEvent reads a record; the event shares nothing with b.
func decodeEvent(position uint64, b []byte) (Event, error) {
	if len(b) == 0 || b[0] != formatEvent {
		return Event{}, errRecord
	}
	r := reader{b: b[1:]}
	e := Event{Position: position, Message: &iothub.Message{}}
	h := r.header()
	e.Partition, e.Sequence, e.Offset, e.Enqueued = h.partition, h.sequence, h.offset, time.UnixMilli(h.enqueued).UTC()
	e.Sender.Device, e.Sender.Module = r.text(), r.text()
	e.Generation, e.AuthMethod, e.ModelID = r.text(), r.text(), r.text()
	e.Message.System = r.properties()
	e.Message.Properties = r.properties()
	if r.bad {
		return Event{}, errRecord
	}
	e.Message.Body = append([]byte(nil), r.b...)
	return e, nil
}

// reader takes values off the front of b; after a fault it gives zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) text() string {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) properties() iothub.Properties {
	n := r.number()
	if n > uint64(len(r.b)) { // each takes three bytes at least
		r.bad, r.b = true, nil
		return nil
	}
	var list iothub.Properties
	for range n {
		p := iothub.Property{Name: r.text()}
		if len(r.b) == 0 {
			r.bad = true
			return nil
		}
		p.Null = r.b[0] == 1
		r.b = r.b[1:]
		p.Value = r.text()
		list = append(list, p)
	}
	return list
}

// head are the counters of the log.
type head struct {
	first, next uint64 // positions: oldest event, next to be given
	bytes       uint64 // of the records between
	partitions  []counters
}

type counters struct{ sequence, offset int64 }

func (h *head) encode() []byte {
	b := make([]byte, 0, 8*(4+2*len(h.partitions)))
	for _, v := range []uint64{h.first, h.next, h.bytes, uint64(len(h.partitions))} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	for _, c := range h.partitions {
		b = binary.BigEndian.AppendUint64(b, uint64(c.sequence))
		b = binary.BigEndian.AppendUint64(b, uint64(c.offset))
	}
	return b
}

func decodeHead(b []byte) (head, error) {
	if len(b) < 32 || len(b)%8 != 0 {
		return head{}, errRecord
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	h := head{first: at(0), next: at(1), bytes: at(2)}
	n := at(3)
	if n != uint64(len(b)/8-4)/2 || h.first > h.next {
		return head{}, errRecord
	}
	for i := range int(n) {
		h.partitions = append(h.partitions, counters{sequence: int64(at(4 + 2*i)), offset: int64(at(5 + 2*i))})
	}
	return h, nil
}

const keyPrefix = "e\x00"

func key(position uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(keyPrefix), position)
}

func positionOf(key []byte) (uint64, bool) {
	if len(key) != len(keyPrefix)+8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(key[len(keyPrefix):]), true
}
