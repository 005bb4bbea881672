package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/events"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// heartbeat is how often an idle stream sends an empty line, so that either side
// finds out when the other is gone.
const heartbeat = 20 * time.Second

// eventBatch is how many events are read at once.
const eventBatch = 256

// streamEvents writes events as lines of JSON: since "beginning", "now" or a
// position; of all devices or one; to the end of the log or for ever (follow).
func (a *API) streamEvents(r *request) (answer, error) {
	q := r.URL.Query()
	var from uint64
	switch since := q.Get("since"); since {
	case "", "now":
		from = a.hub.Events().Next()
	case "beginning":
	default:
		var err error
		if from, err = strconv.ParseUint(since, 10, 64); err != nil {
			return answer{}, refuse(registry.ArgumentInvalid, "since is neither beginning, now nor a position")
		}
	}
	follow := q.Get("follow") != "false"
	r.w.Header().Set("Content-Type", "application/x-ndjson")
	r.w.WriteHeader(http.StatusOK)
	end := a.hub.Events().Next()
	for {
		list, next, err := a.hub.Events().Read(from, eventBatch)
		if err != nil {
			a.log.Error("stream of events", "error", err)
			panic(http.ErrAbortHandler) // the status is sent: only this shows the client a failure
		}
		var lines bytes.Buffer
		for i := range list {
			if device := q.Get("device"); device == "" || list[i].Sender.Device == device {
				writeLine(&lines, &list[i])
			}
		}
		from = next
		sent := r.sendNow(lines.Bytes())
		if done := !follow && from >= end; !sent || done || !a.waitEvents(r, from) {
			return answer{sent: true}, nil
		}
	}
}

// getEventHub says where clients of event hubs find the events.
func (a *API) getEventHub(*request) (answer, error) {
	i := a.hub.EventHub()
	return answer{doc: rest.EventHub{Name: i.Name, Host: i.Host, Port: int(i.Port), Partitions: i.Partitions, ConsumerGroups: i.Groups}}, nil
}

// sendNow writes and flushes; false if the client is gone.
func (r *request) sendNow(b []byte) bool {
	if _, err := r.w.Write(b); err != nil {
		return false
	}
	return http.NewResponseController(r.w).Flush() == nil
}

// waitEvents waits for events at from, with heartbeats; false if the client is gone.
func (a *API) waitEvents(r *request, from uint64) bool {
	for {
		ctx, cancel := context.WithTimeout(r.Context(), heartbeat)
		err := a.hub.Events().Wait(ctx, from)
		cancel()
		switch {
		case err == nil:
			return true
		case r.Context().Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return false
		}
		if !r.sendNow([]byte("\n")) {
			return false
		}
	}
}

// systemNames are the names under which `az iot hub monitor-events` shows system
// properties.
var systemNames = map[string]string{
	iothub.MessageID:          "message_id",
	iothub.CorrelationID:      "correlation_id",
	iothub.UserID:             "user_id",
	iothub.To:                 "to",
	iothub.ContentType:        "content_type",
	iothub.ContentEncoding:    "content_encoding",
	iothub.AbsoluteExpiryTime: "absolute_expiry_time",
}

// annotationNames are those of system properties that readers of an event hub see
// as annotations.
var annotationNames = map[string]string{
	iothub.OutputName:    "iothub-outputname",
	iothub.InterfaceID:   "iothub-interface-id",
	iothub.ComponentName: "dt-subject",
	iothub.CreationTime:  "iothub-creation-time-utc",
	iothub.MessageSchema: "iothub-message-schema",
}

func writeLine(w *bytes.Buffer, e *events.Event) {
	line := rest.EventLine{Position: e.Position, Partition: e.Partition}
	out := &line.Event
	out.Origin, out.Module = e.Sender.Device, e.Sender.Module
	out.Interface, out.Component = e.Message.System.Get(iothub.InterfaceID), e.Message.System.Get(iothub.ComponentName)
	out.Properties.System = map[string]string{}
	out.Properties.Application = map[string]any{}
	ms := e.Enqueued.UnixMilli()
	out.Annotations = map[string]any{
		"iothub-connection-device-id":          e.Sender.Device,
		"iothub-connection-auth-generation-id": e.Generation,
		"iothub-connection-auth-method":        e.AuthMethod,
		"iothub-enqueuedtime":                  ms,
		"iothub-message-source":                "Telemetry",
		"x-opt-sequence-number":                e.Sequence,
		"x-opt-offset":                         strconv.FormatInt(e.Offset, 10),
		"x-opt-enqueued-time":                  ms,
	}
	if e.Sender.IsModule() {
		out.Annotations["iothub-connection-module-id"] = e.Sender.Module
	}
	if e.ModelID != "" {
		out.Annotations["dt-dataschema"] = e.ModelID
	}
	for _, p := range e.Message.System {
		if name, ok := systemNames[p.Name]; ok {
			out.Properties.System[name] = p.Value
		} else if name, ok := annotationNames[p.Name]; ok {
			out.Annotations[name] = p.Value
		}
	}
	for _, p := range e.Message.Properties {
		if p.Null {
			out.Properties.Application[p.Name] = nil
		} else {
			out.Properties.Application[p.Name] = p.Value
		}
	}
	out.Payload, out.PayloadEncoding = eventPayload(e.Message)
	raw, err := json.Marshal(line)
	if err != nil {
		return // only texts, numbers and valid JSON are in it
	}
	w.Write(raw)
	w.WriteByte('\n')
}

// eventPayload shows a body: as JSON if it says that it is, as text if it is, else
// in base64.
func eventPayload(m *iothub.Message) (payload json.RawMessage, encoding string) {
	if strings.Contains(strings.ToLower(m.System.Get(iothub.ContentType)), "application/json") && utf8.Valid(m.Body) && json.Valid(m.Body) {
		var compact bytes.Buffer
		if json.Compact(&compact, m.Body) == nil {
			return compact.Bytes(), ""
		}
	}
	text := string(m.Body)
	if !utf8.Valid(m.Body) {
		text, encoding = base64.StdEncoding.EncodeToString(m.Body), "base64"
	}
	raw, err := json.Marshal(text)
	if err != nil { // a string always encodes
		return json.RawMessage("null"), encoding
	}
	return raw, encoding
}
