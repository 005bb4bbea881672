package head

import (
	"context"
	"crypto/x509"
	"net"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// ServiceLogin is what a service says of itself when it connects.
type ServiceLogin struct {
	Protocol string // "amqp" or "amqp-ws"
	Remote   net.Addr
	Token    string // SAS token of a shared access policy; or
	Policy   string // its name, and
	Key      string // its key, as text
	Peer     []*x509.Certificate
}

// ServiceBackend is the service side of a hub that has one (iothub; edgehub has
// none): what back ends send to devices, and what comes back.
type ServiceBackend interface {
	// ConnectService authenticates a service, which needs the ServiceConnect right.
	// Errors: ErrUnauthorized, ErrUnavailable.
	ConnectService(ctx context.Context, login ServiceLogin) (ServiceSession, error)
}

// ServiceSession is one authenticated service. Methods may be called
// concurrently.
type ServiceSession interface {
	// Expires is when its credentials end; zero for never.
	Expires() time.Time
	// EventPath is empty for who may act on the whole hub. Otherwise the service may
	// only read events, and only what lies at this path or below, whose first part is
	// the name of the event hub; in any case.
	EventPath() string
	// SendToDevice queues a cloud-to-device message; nil means that it is on disk.
	// The system properties Ack, MessageID, AbsoluteExpiryTime and others are those
	// of iothub.Message. Errors: ErrNotFound, ErrInvalid, ErrTooLarge, ErrThrottled
	// (the queue of the device is full), ErrUnavailable.
	SendToDevice(ctx context.Context, to iothub.Identity, m *iothub.Message) error
	// Feedback waits for a batch of feedback; the caller settles it by exactly one
	// call of Settle, with Lost if it does not know. Batches that are abandoned or
	// lost come again, to whoever asks next.
	Feedback(ctx context.Context) (FeedbackBatch, error)
}

// FeedbackBatch is one feedback message (iothub-service.md 11.4).
type FeedbackBatch struct {
	Body      []byte // JSON array of records
	LockToken string // a UUID
	Hub       string // name of the hub, the user id of the message
	Enqueued  time.Time
	// Settle says whether the outcome counts, and is not too late. It may wait for
	// the disk.
	Settle func(Outcome) (counts bool)
}
