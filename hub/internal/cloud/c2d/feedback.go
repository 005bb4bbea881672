package c2d

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// Status is how a message came to its end, in the words of IoT Hub.
type Status string

// Statuses.
const (
	Success               Status = "Success"
	Expired               Status = "Expired"
	DeliveryCountExceeded Status = "DeliveryCountExceeded"
	Rejected              Status = "Rejected"
	Purged                Status = "Purged"
)

// ack is what the sender of a message wants to hear of: a set.
type ack uint8

const (
	positive ack = 1 << iota
	negative
)

func parseAck(s string) (ack, error) {
	switch strings.ToLower(s) {
	case "", "none":
		return 0, nil
	case "positive":
		return positive, nil
	case "negative":
		return negative, nil
	case "full":
		return positive | negative, nil
	}
	return 0, fmt.Errorf("%w: %.40q is none of none, positive, negative, full", ErrInvalid, s)
}

// tell is what is needed to tell the sender of a message how it ended.
type tell struct {
	ack                   ack
	messageID, generation string
}

func (t tell) wants(s Status) bool {
	if s == Success {
		return t.ack&positive != 0
	}
	return t.ack&negative != 0
}

// Bounds of feedback (spec iothub-service 11.4).
const (
	batchRecords = 64
	feedbackTTL  = time.Hour
	// maxFeedback bounds the records that wait; the oldest go first.
	maxFeedback = 1 << 14
	// maxTries is how often records are handed out.
	maxTries = 10
)

// feedbackRecord tells how one message ended. It does not change but for tries.
type feedbackRecord struct {
	seq   uint64
	at    time.Time
	doc   []byte // JSON, as receivers get it
	tries int    // guarded by feedbackLog.mu
}

func (r *feedbackRecord) key() string { return fmt.Sprintf("%016x", r.seq) }

// feedbackDocument is the form of a record on disk and on the wire.
type feedbackDocument struct {
	OriginalMessageID  string `json:"originalMessageId"`
	Description        string `json:"description"`
	DeviceGenerationID string `json:"deviceGenerationId"`
	DeviceID           string `json:"deviceId"`
	EnqueuedTimeUTC    string `json:"enqueuedTimeUtc"` // when the message ended
	StatusCode         Status `json:"statusCode"`
}

// feedbackLog is the queue of feedback, shared by all receivers.
type feedbackLog struct {
	o      Options
	s      *store.Store
	bucket store.Bucket
	nudge  func() // has Run look again

	mu      sync.Mutex
	last    uint64
	pending []*feedbackRecord // on disk and with nobody, oldest first
	locked  map[string]*lockedBatch
	more    chan struct{} // closed and replaced when pending has grown
}

type lockedBatch struct {
	records []*feedbackRecord
	until   time.Time
}

// Batch is one message of feedback: records that ended at about the same time.
type Batch struct {
	Token    string // a UUID, for SettleFeedback
	Body     []byte // JSON array
	Enqueued time.Time
}

func openFeedback(s *store.Store, o Options, nudge func()) (*feedbackLog, error) {
	f := &feedbackLog{o: o, s: s, bucket: s.Bucket("cloud.c2d.feedback"), nudge: nudge,
		locked: map[string]*lockedBatch{}, more: make(chan struct{})}
	err := f.bucket.Scan("", func(k string, v []byte) error {
		seq, err := strconv.ParseUint(k, 16, 64)
		if err != nil {
			return fmt.Errorf("malformed key %q", k)
		}
		var doc feedbackDocument
		if err := json.Unmarshal(v, &doc); err != nil {
			return fmt.Errorf("record %s: %w", k, err)
		}
		at, err := time.Parse(time.RFC3339Nano, doc.EnqueuedTimeUTC)
		if err != nil {
			return fmt.Errorf("record %s: %w", k, err)
		}
		f.pending = append(f.pending, &feedbackRecord{seq: seq, at: at, doc: bytes.Clone(v)})
		f.last = seq
		return nil
	})
	return f, err
}

// record makes the record of a message that has ended; add follows when it is on
// disk.
func (f *feedbackLog) record(r removal) *feedbackRecord {
	now := f.o.Now()
	doc := feedbackDocument{OriginalMessageID: r.tell.messageID, Description: string(r.status),
		DeviceGenerationID: r.tell.generation, DeviceID: r.id.Device, EnqueuedTimeUTC: formatTime(now), StatusCode: r.status}
	raw, err := json.Marshal(doc)
	if err != nil {
		raw = []byte("{}") // texts always encode
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	return &feedbackRecord{seq: f.last, at: now, doc: raw}
}

func (f *feedbackLog) add(list []*feedbackRecord) {
	if len(list) == 0 {
		return
	}
	f.mu.Lock()
	f.pending = append(f.pending, list...)
	var dropped []*feedbackRecord
	if n := len(f.pending) - maxFeedback; n > 0 {
		dropped = append(dropped, f.pending[:n]...)
		f.pending = f.pending[n:]
	}
	f.wakeLocked()
	f.mu.Unlock()
	f.nudge()
	if len(dropped) > 0 {
		f.o.Logger.Warn("feedback that nobody reads was dropped", "records", len(dropped))
		f.remove(dropped, f.logged)
	}
}

func (f *feedbackLog) wakeLocked() {
	close(f.more)
	f.more = make(chan struct{})
}

func (f *feedbackLog) logged(err error) {
	if err != nil {
		f.o.Logger.Warn("feedback not removed", "error", err)
	}
}

// remove removes records from the disk.
func (f *feedbackLog) remove(list []*feedbackRecord, done func(error)) {
	f.s.CommitLate(func(b *store.Batch) {
		for _, r := range list {
			b.Delete(f.bucket.Key(r.key()), 0)
		}
	}, done)
}

// sweep takes back batches whose lock has run out, drops what is too old, and returns
// when there is more to do; zero for never.
func (f *feedbackLog) sweep(now time.Time) time.Time {
	f.mu.Lock()
	var next time.Time
	soonest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	var dropped []*feedbackRecord
	for token, b := range f.locked {
		if b.until.After(now) {
			soonest(b.until)
			continue
		}
		delete(f.locked, token)
		dropped = append(dropped, f.againLocked(b)...)
	}
	n := 0
	for n < len(f.pending) && !f.pending[n].at.Add(feedbackTTL).After(now) {
		n++
	}
	dropped = append(dropped, f.pending[:n]...)
	f.pending = f.pending[n:]
	if len(f.pending) > 0 {
		soonest(f.pending[0].at.Add(feedbackTTL))
	}
	f.mu.Unlock()
	if len(dropped) > 0 {
		f.o.Logger.Info("feedback has expired", "records", len(dropped))
		f.remove(dropped, f.logged)
	}
	return next
}

// againLocked puts the records of a batch back in front, and returns those that have
// been tried too often.
func (f *feedbackLog) againLocked(b *lockedBatch) (dropped []*feedbackRecord) {
	var again []*feedbackRecord
	for _, r := range b.records {
		if r.tries >= maxTries {
			dropped = append(dropped, r)
		} else {
			again = append(again, r)
		}
	}
	f.pending = append(again, f.pending...)
	f.wakeLocked()
	return dropped
}

// take locks a batch: one that has waited for FeedbackDelay, or any. Without one it
// tells when to ask again, zero for when there is more.
func (f *feedbackLog) take(ready bool) (batch *Batch, wait time.Duration, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) == 0 {
		return nil, 0, f.more
	}
	now := f.o.Now()
	if wait := f.pending[0].at.Add(f.o.FeedbackDelay).Sub(now); ready && wait > 0 && len(f.pending) < batchRecords {
		return nil, wait, f.more
	}
	n := min(len(f.pending), batchRecords)
	b := &lockedBatch{records: append([]*feedbackRecord(nil), f.pending[:n]...), until: now.Add(f.o.LockTimeout)}
	f.pending = f.pending[n:]
	docs := make([][]byte, n)
	for i, r := range b.records {
		r.tries++
		docs[i] = r.doc
	}
	body := append([]byte("["), bytes.Join(docs, []byte(","))...)
	batch = &Batch{Token: newToken(), Body: append(body, ']'), Enqueued: b.records[n-1].at}
	f.locked[batch.Token] = b
	f.nudge()
	return batch, 0, nil
}

// Feedback waits for a batch of feedback: 64 records, or fewer when the oldest has
// waited for FeedbackDelay. It is locked until SettleFeedback. The error is that of
// ctx.
func (q *Queues) Feedback(ctx context.Context) (*Batch, error) {
	for {
		batch, wait, more := q.feedback.take(true)
		if batch != nil {
			return batch, nil
		}
		if err := waitMore(ctx, wait, more); err != nil {
			return nil, err
		}
	}
}

// waitMore waits for more, or for a time that is not zero.
func waitMore(ctx context.Context, wait time.Duration, more <-chan struct{}) error {
	var due <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-due:
	case <-more:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// FeedbackNow returns what feedback there is, or nil.
func (q *Queues) FeedbackNow() *Batch {
	batch, _, _ := q.feedback.take(false)
	return batch
}

// SettleFeedback ends the lock of a batch: Complete and Reject remove it, with
// the others it comes again, up to ten times. It is on disk when it returns nil.
// Errors: ErrLockLost, those of the store and of ctx.
func (q *Queues) SettleFeedback(ctx context.Context, token string, o head.Outcome) error {
	f := q.feedback
	f.mu.Lock()
	b := f.locked[token]
	if b == nil {
		f.mu.Unlock()
		return fmt.Errorf("%w: %.64q", ErrLockLost, token)
	}
	delete(f.locked, token)
	dropped := b.records
	if o != head.Complete && o != head.Reject {
		if o == head.Lost {
			for _, r := range b.records {
				r.tries--
			}
		}
		dropped = f.againLocked(b)
	}
	f.mu.Unlock()
	f.nudge()
	if len(dropped) == 0 {
		return nil
	}
	result := make(chan error, 1)
	f.remove(dropped, func(err error) { result <- err })
	select {
	case err := <-result:
		if err != nil {
			return fmt.Errorf("settle feedback: %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
