package topic

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// ParsePublish takes apart the topic of a PUBLISH from a client. A topic that
// matches no form gives Kind Unknown and no error; one that starts like a twin
// request but is none is an error (wraps ErrMalformed), as is a twin GET without
// a request id. A reported patch without one is legal: it wants no answer.
func ParsePublish(s string) (Topic, error) {
	if rest, ok := strings.CutPrefix(s, devices); ok {
		return parseTelemetry(rest), nil
	}
	if rest, ok := strings.CutPrefix(s, methodResponse); ok {
		return parseMethodResponse(rest), nil
	}
	if !strings.HasPrefix(s, twinPrefix) {
		return Topic{}, nil
	}
	t := Topic{}
	rest, ok := strings.CutPrefix(s, twinGet)
	if ok {
		t.Kind = TwinGet
	} else if rest, ok = strings.CutPrefix(s, twinReported); ok {
		t.Kind = TwinPatchReported
	} else {
		return Topic{}, fmt.Errorf("%w twin topic", ErrMalformed)
	}
	if err := t.parseQuery(rest); err != nil {
		return Topic{}, err
	}
	if t.Kind == TwinGet && t.RequestID == "" {
		return Topic{}, fmt.Errorf("%w twin topic: no request id", ErrMalformed)
	}
	return t, nil
}

// ParseDelivery takes apart the topic of a PUBLISH from a hub. A topic that
// matches no form gives Kind Unknown and no error; a twin or method topic with
// unreadable parts is an error that wraps ErrMalformed.
func ParseDelivery(s string) (Topic, error) {
	if rest, ok := strings.CutPrefix(s, devices); ok {
		return parseDelivered(rest), nil
	}
	t := Topic{}
	if rest, ok := strings.CutPrefix(s, twinDesired); ok {
		t.Kind = DesiredChange
		return t.withQuery(rest)
	}
	if rest, ok := strings.CutPrefix(s, twinResponse); ok {
		status, query, _ := strings.Cut(rest, "/")
		n, err := strconv.ParseInt(status, 10, 32)
		if err != nil {
			return Topic{}, fmt.Errorf("%w twin response: status", ErrMalformed)
		}
		t.Kind, t.Status = TwinResponse, int(n)
		return t.withQuery(query)
	}
	if rest, ok := strings.CutPrefix(s, methodRequest); ok {
		name, query, _ := strings.Cut(rest, "/")
		t.Kind, t.Name = MethodRequest, unescape(name)
		if t.Name == "" {
			return Topic{}, fmt.Errorf("%w method request: no name", ErrMalformed)
		}
		return t.withQuery(query)
	}
	return Topic{}, nil
}

// withQuery reads a query into t and returns the result.
func (t Topic) withQuery(s string) (Topic, error) {
	if err := t.parseQuery(s); err != nil {
		return Topic{}, err
	}
	return t, nil
}

// cutIdentity reads "{d}/" or "{d}/modules/{m}/" off the start of s.
func cutIdentity(s string) (id iothub.Identity, rest string, ok bool) {
	id.Device, rest, ok = strings.Cut(s, "/")
	if !ok || id.Device == "" {
		return iothub.Identity{}, "", false
	}
	if m, isModule := strings.CutPrefix(rest, modules); isModule {
		id.Module, rest, ok = strings.Cut(m, "/")
		if !ok || id.Module == "" {
			return iothub.Identity{}, "", false
		}
	}
	return id, rest, true
}

func parseTelemetry(s string) Topic {
	id, rest, ok := cutIdentity(s)
	if !ok {
		return Topic{}
	}
	if rest, ok = strings.CutPrefix(rest, events); !ok {
		return Topic{}
	}
	bag, ok := trimBag(rest)
	if !ok {
		return Topic{}
	}
	return Topic{Kind: Telemetry, Identity: id, Bag: bag}
}

func parseDelivered(s string) Topic {
	id, rest, ok := cutIdentity(s)
	if !ok {
		return Topic{}
	}
	if after, isC2D := strings.CutPrefix(rest, deviceBound); isC2D {
		if bag, ok := trimBag(after); ok {
			return Topic{Kind: C2D, Identity: id, Bag: bag}
		}
		return Topic{}
	}
	after, isInput := strings.CutPrefix(rest, inputs)
	if !isInput || !id.IsModule() {
		return Topic{}
	}
	name := after
	if i := strings.IndexByte(after, '/'); i >= 0 {
		name = after[:i]
	}
	bag, ok := trimBag(after[len(name):])
	if !ok || name == "" {
		return Topic{}
	}
	return Topic{Kind: Input, Identity: id, Name: unescape(name), Bag: bag}
}

// trimBag takes what follows the fixed part of a message topic: nothing, "/", or
// "/bag" with an optional "?" before and an optional "/" after the bag. More
// levels than one make no bag.
func trimBag(s string) (string, bool) {
	if s == "" {
		return "", true
	}
	if s[0] != '/' {
		return "", false
	}
	s = strings.TrimSuffix(s[1:], "/")
	s = strings.TrimPrefix(s, "?")
	return s, strings.IndexByte(s, '/') < 0
}

// parseMethodResponse reads "{status}/?$rid=...". It is as lenient as it can be:
// a response that nobody waits for is dropped later anyway.
func parseMethodResponse(s string) Topic {
	path, query, _ := strings.Cut(s, "?")
	t := Topic{Kind: MethodResponse, Status: BadStatus}
	if n, err := strconv.ParseInt(strings.TrimSuffix(path, "/"), 10, 32); err == nil {
		t.Status = int(n)
	}
	for pair := range strings.SplitSeq(query, "&") {
		if v, ok := strings.CutPrefix(pair, "$rid="); ok {
			t.RequestID = v
		}
	}
	return t
}

// parseQuery reads "?$rid=...&$version=..." in any order; names it does not know
// are skipped. The empty string is an empty query.
func (t *Topic) parseQuery(s string) error {
	if s == "" {
		return nil
	}
	if s[0] != '?' {
		return fmt.Errorf("%w %s topic: no query", ErrMalformed, t.Kind)
	}
	for pair := range strings.SplitSeq(s[1:], "&") {
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "$rid":
			t.RequestID = value
		case "$version":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				return fmt.Errorf("%w %s topic: version", ErrMalformed, t.Kind)
			}
			t.Version = n
		}
	}
	return nil
}
