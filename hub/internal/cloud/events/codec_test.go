package events

import (
	"reflect"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func FuzzDecodeEvent(f *testing.F) {
	e := Event{Partition: 3, Sequence: 7, Offset: 99, Sender: iothub.ModuleIdentity("d", "m"),
		Message: &iothub.Message{Body: []byte("b"), Properties: iothub.Properties{{Name: "n", Null: true}}}}
	f.Add(e.encode())
	f.Add([]byte{})
	f.Add([]byte{formatEvent, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEvent(1, b)
		if err != nil {
			return
		}
		again, err := decodeEvent(1, e.encode())
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v became %+v, %v", e, again, err)
		}
	})
}

func FuzzDecodeHead(f *testing.F) {
	h := head{first: 1, next: 5, bytes: 9, partitions: make([]counters, 2)}
	f.Add(h.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHead(b)
		if err != nil {
			return
		}
		if again, err := decodeHead(h.encode()); err != nil || !reflect.DeepEqual(h, again) {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}
