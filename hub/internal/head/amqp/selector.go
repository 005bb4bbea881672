package amqp

import (
	"math"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

// The filter with which readers say where they begin (spec iothub-amqp 11.4): its
// name, and the number that may stand for it as a descriptor.
const (
	filterSelector     = "apache.org:selector-filter:string"
	filterSelectorCode = 0x0000468C00000004
)

// latest is the offset of what comes next.
const latest = "@latest"

// fromBeginning is where readers begin who do not say.
var fromBeginning = head.EventStart{By: head.EventOffset, Value: -1}

// selector finds the selector among the filters of a source. Others are for nodes
// of another kind, and left out of what is accepted.
func selector(source *wire.Source) (text string, accepted wire.Map, refusal *wire.Error) {
	for _, pair := range source.Filter {
		name, _ := pair.Key.Text()
		value := pair.Value
		descriptor, inner, described := value.Described()
		if described {
			value = inner
		}
		code, numeric := descriptor.Uint64()
		symbol, _ := descriptor.Text()
		if name != filterSelector && !(described && (numeric && code == filterSelectorCode || symbol == filterSelector)) {
			continue
		}
		s, ok := value.Text()
		if !ok || text != "" || s == "" {
			return "", nil, wire.Errorf(wire.CondInvalidField, "the selector must be one text")
		}
		text, accepted = s, append(accepted, pair)
	}
	return text, accepted, nil
}

// parseSelector reads a selector: the name of an annotation, > or >=, and a value
// with or without quotes.
func parseSelector(s string) (head.EventStart, bool) {
	const prefix = "amqp.annotation."
	s = strings.TrimSpace(s)
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return head.EventStart{}, false
	}
	name, value, ok := strings.Cut(s[len(prefix):], ">")
	if !ok {
		return head.EventStart{}, false
	}
	var start head.EventStart
	value, start.Inclusive = strings.CutPrefix(value, "=")
	value = strings.TrimSpace(value)
	if len(value) >= 2 && value[0] == '\'' && value[len(value)-1] == '\'' {
		value = strings.TrimSpace(value[1 : len(value)-1])
	}
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "x-opt-offset":
		if strings.EqualFold(value, latest) {
			return head.EventStart{Latest: true}, true
		}
	case "x-opt-sequence-number":
		start.By = head.EventSequence
	case "x-opt-enqueued-time", "x-opt-enqueuedtimeutc", "x-opt-enqueued-time-utc":
		start.By = head.EventTime
	default:
		return head.EventStart{}, false
	}
	start.Value, ok = parseOperand(value, start.By == head.EventTime)
	return start, ok
}

// parseOperand reads a whole number. A time may have a fraction, which is cut off,
// and an exponent: some clients print floating-point numbers.
func parseOperand(s string, isTime bool) (int64, bool) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	if !isTime || strings.ContainsAny(s, "xXpP_iInN") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.Abs(f) >= 1<<62 {
		return 0, false
	}
	return int64(math.Floor(f)), true
}
