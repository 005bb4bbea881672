package api

import (
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// appHeader begins the names of headers that are application properties. net/http
// does not keep the case of header names, so those of properties arrive in lower
// case.
const appHeader = "iothub-app-"

// systemHeaders are the headers that are system properties (spec iothub-service
// 11.2).
var systemHeaders = map[string]string{
	"iothub-messageid":       iothub.MessageID,
	"iothub-correlationid":   iothub.CorrelationID,
	"iothub-userid":          iothub.UserID,
	"iothub-to":              iothub.To,
	"iothub-expiry":          iothub.AbsoluteExpiryTime,
	"iothub-ack":             iothub.Ack,
	"iothub-contenttype":     iothub.ContentType,
	"iothub-contentencoding": iothub.ContentEncoding,
	"iothub-interface-id":    iothub.InterfaceID,
}

// messageOf makes a message of the headers and body of a request.
func messageOf(r *request) *iothub.Message {
	m := &iothub.Message{Body: r.body}
	for name, values := range r.Header {
		if len(values) > 0 {
			name = strings.ToLower(name)
			if _, system := systemHeaders[name]; system || strings.HasPrefix(name, appHeader) {
				setProperty(m, name, text(values[0]))
			}
		}
	}
	return m
}

// setProperty sets the property of a header name, or of a name as it is.
func setProperty(m *iothub.Message, name, value string) {
	lower := strings.ToLower(name)
	if system, ok := systemHeaders[lower]; ok {
		m.System.Set(system, value)
		return
	}
	if strings.HasPrefix(lower, appHeader) {
		name = name[len(appHeader):]
	}
	// What only the hub may say is not taken from a sender.
	if lower = strings.ToLower(name); name != "" && !strings.HasPrefix(lower, "iothub-connection-") && lower != "iothub-enqueuedtime" {
		m.Properties.Set(name, value)
	}
}

// text reads a header value as UTF-8, or as the Latin-1 that HTTP was made for.
func text(v string) string {
	if utf8.ValidString(v) {
		return v
	}
	runes := make([]rune, len(v))
	for i := range len(v) {
		runes[i] = rune(v[i])
	}
	return string(runes)
}

// setHeaders writes the properties of a message to a device. A property whose name
// is none for a header is left out, as HTTP cannot carry it.
func setHeaders(h http.Header, m *iothub.Message) {
	for name, property := range systemHeaders {
		if v, ok := m.System.Lookup(property); ok {
			h.Set(name, v.Value)
		}
	}
	h.Set("iothub-sequencenumber", m.System.Get(iothub.SequenceNumber))
	h.Set("iothub-enqueuedtime", m.System.Get(iothub.EnqueuedTime))
	h.Set("iothub-deliverycount", m.System.Get(iothub.DeliveryCount))
	for _, p := range m.Properties {
		h[appHeader+p.Name] = []string{p.Value} // not Set, which changes the case
	}
}

// batchType is the content type of many messages in one request.
const batchType = "application/vnd.microsoft.iothub.json"

// telemetryOf reads the messages of a device's request: one, or a batch.
func telemetryOf(r *request) ([]*iothub.Message, error) {
	list := []*iothub.Message{nil}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == batchType {
		if list, err = parseBatch(r.body); err != nil {
			return nil, err
		}
	} else {
		list[0] = messageOf(r)
	}
	for _, m := range list {
		// Towards the hub it has no meaning of its own (iothub-mqtt.md 6.1).
		if v, ok := m.System.Lookup(iothub.Ack); ok {
			m.System.Delete(iothub.Ack)
			m.Properties.Set("iothub-ack", v.Value)
		}
	}
	return list, nil
}

// parseBatch reads the body of a batch. A body is in base64 unless it says that it
// is not.
func parseBatch(body []byte) ([]*iothub.Message, error) {
	var in []struct {
		Body       string            `json:"body"`
		Base64     *bool             `json:"base64Encoded"`
		Properties map[string]string `json:"properties"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, refuse(registry.ArgumentInvalid, "the body is no batch of messages")
	}
	if len(in) == 0 {
		return nil, refuse(registry.ArgumentInvalid, "the batch is empty")
	}
	list := make([]*iothub.Message, len(in))
	for i, v := range in {
		m := &iothub.Message{Body: []byte(v.Body)}
		if v.Base64 == nil || *v.Base64 {
			var err error
			if m.Body, err = base64.StdEncoding.DecodeString(v.Body); err != nil {
				return nil, refuse(registry.ArgumentInvalid, "the body of message %d is not base64", i)
			}
		}
		for name, value := range v.Properties {
			setProperty(m, name, value)
		}
		list[i] = m
	}
	return list, nil
}
