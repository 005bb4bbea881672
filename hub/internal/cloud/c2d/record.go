package c2d

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// record is a message on disk.
type record struct {
	Generation string            `json:"generation"` // of the identity
	Enqueued   time.Time         `json:"enqueued"`
	Expires    time.Time         `json:"expires"`
	System     iothub.Properties `json:"system,omitempty"`
	Properties iothub.Properties `json:"properties,omitempty"`
	Body       []byte            `json:"body,omitempty"`
}

func (r *record) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // would make six bytes of one
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return b.Bytes(), nil
}

func decodeRecord(raw []byte) (record, error) {
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("message on disk: %w", err)
	}
	return r, nil
}

// counts is how often a message was handed out and came back.
type counts struct {
	Deliveries int `json:"deliveries"`
	Abandons   int `json:"abandons"`
}

func (c counts) encode() []byte {
	return fmt.Appendf(nil, `{"deliveries":%d,"abandons":%d}`, c.Deliveries, c.Abandons)
}

func messageKey(id iothub.Identity, seq uint64) string {
	return id.String() + "\x00" + fmt.Sprintf("%016x", seq)
}

func parseMessageKey(k string) (iothub.Identity, uint64, error) {
	name, hex, ok := strings.Cut(k, "\x00")
	id, err := iothub.ParseIdentity(name)
	if err != nil || !ok {
		return id, 0, fmt.Errorf("malformed key %q", k)
	}
	seq, err := strconv.ParseUint(hex, 16, 64)
	if err != nil || len(hex) != 16 {
		return id, 0, fmt.Errorf("malformed key %q", k)
	}
	return id, seq, nil
}

// stampedNames are system properties that only the hub sets.
var stampedNames = []string{iothub.To, iothub.DeliveryCount, iothub.EnqueuedTime, iothub.LockToken, iothub.SequenceNumber,
	iothub.ConnectionDeviceID, iothub.ConnectionModuleID, iothub.ConnectionDeviceGenerationID, iothub.ConnectionAuthMethod,
	iothub.InputName, iothub.OutputName}

// maxMessageID is the longest message or correlation id (iothub-mqtt.md 6.1).
const maxMessageID = 128

// newRecord checks a message and makes the record and what its sender wants to hear.
// Errors wrap ErrInvalid or ErrTooLarge.
func newRecord(id iothub.Identity, generation string, m *iothub.Message, now time.Time, ttl time.Duration) (record, tell, error) {
	if n := m.Size(); n > MaxSize {
		return record{}, tell{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, MaxSize)
	}
	for _, list := range []iothub.Properties{m.System, m.Properties} {
		for _, p := range list {
			if !utf8.ValidString(p.Name) || !utf8.ValidString(p.Value) {
				return record{}, tell{}, fmt.Errorf("%w: a property is not UTF-8", ErrInvalid)
			}
		}
	}
	r := record{Generation: generation, Enqueued: now.UTC(), Expires: now.Add(ttl).UTC(), System: m.System.Clone(),
		Properties: m.Properties.Clone(), Body: m.Body}
	for _, name := range stampedNames {
		r.System.Delete(name)
	}
	for _, name := range []string{iothub.MessageID, iothub.CorrelationID, iothub.UserID, iothub.AbsoluteExpiryTime} {
		p, ok := r.System.Lookup(name)
		switch {
		case ok && p.Value == "": // some clients always send them (iothub-amqp.md 10.1)
			r.System.Delete(name)
		case len(p.Value) > maxMessageID && name != iothub.UserID:
			return record{}, tell{}, fmt.Errorf("%w: %s is longer than %d bytes", ErrInvalid, name, maxMessageID)
		}
	}
	if p, ok := r.System.Lookup(iothub.AbsoluteExpiryTime); ok {
		at, err := parseTime(p.Value)
		switch {
		case err != nil:
			return record{}, tell{}, err
		case at.Year() <= 1:
			r.System.Delete(iothub.AbsoluteExpiryTime)
		default:
			r.Expires = at.UTC()
			if limit := now.Add(MaxTTL).UTC(); r.Expires.After(limit) {
				r.Expires = limit
			}
			r.System.Set(iothub.AbsoluteExpiryTime, formatTime(at))
		}
	}
	t := tell{messageID: r.System.Get(iothub.MessageID), generation: generation}
	var err error
	if t.ack, err = parseAck(r.System.Get(iothub.Ack)); err != nil {
		return record{}, tell{}, err
	}
	to := "/devices/" + url.PathEscape(id.Device)
	if id.IsModule() {
		to += "/modules/" + url.PathEscape(id.Module)
	}
	r.System.Set(iothub.To, to+"/messages/deviceBound")
	return r, t, nil
}

// timeForms are those in which clients write the expiry of a message.
var timeForms = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", http.TimeFormat, "1/2/2006 3:04:05 PM", "01/02/2006 15:04:05"}

func parseTime(s string) (time.Time, error) {
	for _, form := range timeForms {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: %.40q is not a time", ErrInvalid, s)
}

// formatTime writes a time as IoT Hub does.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

// load reads the index of all queues, and drops what belongs to identities that are
// no more.
func (q *Queues) load() error {
	var left store.Batch
	err := q.sequences.Scan("", func(k string, v []byte) error {
		id, err := iothub.ParseIdentity(k)
		if err != nil {
			return err
		}
		last, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil {
			return fmt.Errorf("sequence of %s: %w", k, err)
		}
		q.queueLocked(id).last = last
		return nil
	})
	if err != nil {
		return err
	}
	if err := q.messages.Scan("", func(k string, v []byte) error { return q.loadMessage(k, v, &left) }); err != nil {
		return err
	}
	err = q.counts.Scan("", func(k string, v []byte) error {
		id, seq, err := parseMessageKey(k)
		if err != nil {
			return err
		}
		e := q.queueLocked(id).find(seq)
		if e == nil {
			left.Delete(q.counts.Key(k), 0)
			return nil
		}
		var c counts
		if err := json.Unmarshal(v, &c); err != nil {
			return fmt.Errorf("counts of %s: %w", id, err)
		}
		e.deliveries, e.abandons = c.Deliveries, c.Abandons
		return nil
	})
	if err != nil || left.Empty() {
		return err
	}
	q.s.Commit(&left, q.logged)
	return nil
}

func (q *Queues) loadMessage(k string, v []byte, left *store.Batch) error {
	id, seq, err := parseMessageKey(k)
	if err != nil {
		return err
	}
	r, err := decodeRecord(v)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if !q.o.Known(id, r.Generation) {
		left.Delete(q.messages.Key(k), len(v))
		return nil
	}
	ack, err := parseAck(r.System.Get(iothub.Ack))
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	qu := q.queueLocked(id)
	qu.last = max(qu.last, seq)
	e := &entry{queue: qu, seq: seq, stored: true, expires: r.Expires, index: -1,
		tell: tell{ack: ack, messageID: r.System.Get(iothub.MessageID), generation: r.Generation}}
	qu.entries = append(qu.entries, e)
	q.rescheduleLocked(e)
	return nil
}

func (qu *queue) find(seq uint64) *entry {
	for _, e := range qu.entries {
		if e.seq == seq {
			return e
		}
	}
	return nil
}

// message reads what an entry stands for, stamped for one delivery. It returns nil
// if the message is no more.
func (q *Queues) message(e *entry, l *lock, deliveries int) (*iothub.Message, error) {
	raw, err := q.messages.Get(e.key())
	if errors.Is(err, store.ErrNotFound) {
		q.mu.Lock()
		defer q.mu.Unlock()
		if e.gone {
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	r, err := decodeRecord(raw)
	if err != nil {
		return nil, err
	}
	m := &iothub.Message{Body: r.Body, System: r.System, Properties: r.Properties}
	m.System.Set(iothub.SequenceNumber, strconv.FormatUint(e.seq, 10))
	m.System.Set(iothub.EnqueuedTime, formatTime(r.Enqueued))
	m.System.Set(iothub.DeliveryCount, strconv.Itoa(deliveries))
	m.System.Set(iothub.LockToken, l.token)
	return m, nil
}
