package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// EventLine is one event of the local hub's stream. Event has the form of `az iot
// hub monitor-events`; position and partition are added around it.
type EventLine struct {
	Position  uint64 `json:"position"` // in the whole log; go on at Position+1
	Partition int    `json:"partition"`
	Event     Event  `json:"event"`
}

// Event is a message as readers of the hub see it.
type Event struct {
	Origin     string `json:"origin"`
	Module     string `json:"module"`
	Interface  string `json:"interface"`
	Component  string `json:"component"`
	Properties struct {
		System      map[string]string `json:"system"`
		Application map[string]any    `json:"application"` // string or null
	} `json:"properties"`
	Annotations     map[string]any  `json:"annotations"`
	Payload         json.RawMessage `json:"payload"`
	PayloadEncoding string          `json:"payloadEncoding,omitempty"` // "base64" for bytes that are no text
}

// EventQuery says which events to read. A zero value follows from now on.
type EventQuery struct {
	Since  string // "beginning", "now" or a position; "" means now
	Device string // "" means all
	Follow bool   // go on when the end is reached
}

// maxLine bounds a line: a message of 256 KiB in base64 with escapes.
const maxLine = 4 << 20

// Events reads events of the local hub (a real hub has no such path and refuses)
// and calls each with every line; the slice is valid during the call only. It
// returns nil at the end when it does not follow, and otherwise the first error:
// that of each, of ctx, or of a broken stream. It does not reconnect.
func (c *Client) Events(ctx context.Context, q EventQuery, each func(line []byte) error) error {
	query := url.Values{"follow": {strconv.FormatBool(q.Follow)}}
	if q.Since != "" {
		query.Set("since", q.Since)
	}
	if q.Device != "" {
		query.Set("device", q.Device)
	}
	resp, err := c.send(ctx, request{method: http.MethodGet, path: "/admin/events", query: query}, nil)
	if err != nil {
		return fmt.Errorf("events: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxLine))
		if err != nil {
			return fmt.Errorf("events: read answer: %w", err)
		}
		return fmt.Errorf("events: %w", parseError(resp.StatusCode, resp.Header, body))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue // a heartbeat
		}
		if err := each(lines.Bytes()); err != nil {
			return err
		}
	}
	switch err := lines.Err(); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("events: %w", err)
	case q.Follow:
		return fmt.Errorf("events: %w", errors.New("the hub ended the stream"))
	}
	return nil
}
