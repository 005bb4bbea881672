package quality

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"time"
)

// Point is a value at a time.
type Point struct {
	At    time.Time `json:"at"`
	Value float64   `json:"value"`
}

// Series is what is sent of one series.
type Series struct {
	Name   string  `json:"name"`
	Labels string  `json:"labels"` // JSON object
	Points []Point `json:"points"`
}

// Scrape is what was kept of one moment.
type Scrape struct {
	At     time.Time `json:"at"`
	Values []Value   `json:"values"`
}

// Condense turns scrapes, oldest first, into series. A value that is equal to the
// one before in its series is left out.
func Condense(scrapes []Scrape) []Series {
	at := map[string]int{}
	var list []Series
	for _, s := range scrapes {
		for _, v := range s.Values {
			key := v.Name + "\x00" + v.Labels
			i, ok := at[key]
			if !ok {
				i = len(list)
				at[key] = i
				list = append(list, Series{Name: v.Name, Labels: v.Labels})
			}
			p := &list[i].Points
			if n := len(*p); n > 0 && (*p)[n-1].Value == v.Value {
				continue
			}
			*p = append(*p, Point{s.At, v.Value})
		}
	}
	slices.SortFunc(list, func(a, b Series) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Labels, b.Labels)
	})
	return list
}

// MaxMessage is the size of a message's body at most, in bytes.
const MaxMessage = 255_000

// Encode writes series into as many bodies as they need: for each, with sizes and
// numbers in little-endian order,
//
//	int32 length, name, int32 length, labels, int32 count, count × (int64 ticks, float64)
//
// where ticks are 100 ns since year 1. A series whose name and labels leave no room
// is left out.
func Encode(list []Series) [][]byte {
	var bodies [][]byte
	var body []byte
	for _, s := range list {
		head := 12 + len(s.Name) + len(s.Labels)
		if head+pointSize > MaxMessage {
			continue
		}
		for points := s.Points; len(points) > 0; {
			if len(body)+head+pointSize > MaxMessage {
				bodies, body = append(bodies, body), nil
			}
			n := min(len(points), (MaxMessage-len(body)-head)/pointSize)
			body = appendSeries(body, s, points[:n])
			points = points[n:]
		}
	}
	if len(body) > 0 {
		bodies = append(bodies, body)
	}
	return bodies
}

const pointSize = 16

func appendSeries(b []byte, s Series, points []Point) []byte {
	b = appendText(b, s.Name)
	b = appendText(b, s.Labels)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(points))) //nolint:gosec // fits a message
	for _, p := range points {
		b = binary.LittleEndian.AppendUint64(b, uint64(ticks(p.At))) //nolint:gosec // two's complement
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(p.Value))
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s))) //nolint:gosec // fits a message
	return append(b, s...)
}

// ticks of the Unix epoch since year 1.
const epochTicks = 621355968000000000

func ticks(t time.Time) int64 { return epochTicks + t.Unix()*10_000_000 + int64(t.Nanosecond())/100 }
