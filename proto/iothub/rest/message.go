package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// FeedbackRecord tells what became of a cloud-to-device message.
type FeedbackRecord struct {
	OriginalMessageID  string `json:"originalMessageId"`
	Description        string `json:"description"`
	DeviceGenerationID string `json:"deviceGenerationId"`
	DeviceID           string `json:"deviceId"`
	EnqueuedTimeUTC    Time   `json:"enqueuedTimeUtc"` // when it ended
	// StatusCode is Success, Expired, DeliveryCountExceeded, Rejected or Purged.
	StatusCode string `json:"statusCode"`
}

// Feedback is a batch of records, locked for its receiver until CompleteFeedback or
// for a minute.
type Feedback struct {
	LockToken string
	Records   []FeedbackRecord
}

// PurgeResult is the answer to a purge.
type PurgeResult struct {
	DeviceID            string `json:"deviceId"`
	ModuleID            string `json:"moduleId,omitempty"`
	TotalMessagesPurged int    `json:"totalMessagesPurged"`
}

// messageHeaders are the headers of the system properties that services send.
var messageHeaders = map[string]string{
	iothub.MessageID:          "iothub-messageid",
	iothub.CorrelationID:      "iothub-correlationid",
	iothub.UserID:             "iothub-userid",
	iothub.AbsoluteExpiryTime: "iothub-expiry",
	iothub.Ack:                "iothub-ack",
	iothub.ContentType:        "iothub-contenttype",
	iothub.ContentEncoding:    "iothub-contentencoding",
}

// SendMessage queues a cloud-to-device message; nil means that the hub keeps it.
// Properties go as headers: the hub may get their names in lower case. System
// properties that services do not set are left out. It is not tried again once the
// hub may have seen it. Status 403 means that the queue of the device is full, 404
// that there is no such device.
func (c *Client) SendMessage(ctx context.Context, id iothub.Identity, m *iothub.Message) error {
	h := http.Header{"Content-Type": {"application/octet-stream"}}
	for _, p := range m.System {
		if name, ok := messageHeaders[p.Name]; ok {
			h.Set(name, p.Value)
		}
	}
	for _, p := range m.Properties {
		h["iothub-app-"+p.Name] = []string{p.Value}
	}
	path := devicePath(id.Device)
	if id.IsModule() {
		path = modulePath(id)
	}
	body := m.Body
	if body == nil {
		body = []byte{}
	}
	return c.do(ctx, request{method: http.MethodPost, path: path + "/messages/deviceBound", raw: body, header: h, once: true}, nil)
}

const feedbackPath = "/messages/serviceBound/feedback"

// ReceiveFeedback returns a batch of feedback; without any its LockToken is empty.
func (c *Client) ReceiveFeedback(ctx context.Context) (Feedback, error) {
	var f Feedback
	var raw rawAnswer
	if err := c.do(ctx, request{method: http.MethodGet, path: feedbackPath}, &raw); err != nil {
		return f, err
	}
	if raw.status == http.StatusNoContent {
		return f, nil
	}
	if err := json.Unmarshal(raw.body, &f.Records); err != nil {
		return f, fmt.Errorf("feedback: %w", err)
	}
	f.LockToken = strings.Trim(raw.header.Get("ETag"), `"`)
	return f, nil
}

// CompleteFeedback removes a batch. Status 412 means that its lock has run out.
func (c *Client) CompleteFeedback(ctx context.Context, lockToken string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: feedbackPath + "/" + url.PathEscape(lockToken)}, nil)
}

// PurgeMessages removes all cloud-to-device messages of a device.
func (c *Client) PurgeMessages(ctx context.Context, device string) (PurgeResult, error) {
	var out PurgeResult
	err := c.do(ctx, request{method: http.MethodDelete, path: devicePath(device) + "/commands"}, &out)
	return out, err
}

// Expiry writes a time as the property AbsoluteExpiryTime wants it.
func Expiry(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }
