package quality

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
)

// summary tells how series of a metric are put together: by these labels alone.
type summary struct {
	labels  []string
	average bool
}

// summaries are the metrics whose series are put together, by name; those that end
// in * hold for all names that begin so.
var summaries = map[string]summary{
	"edgehub_gettwin_total":                     {labels: []string{"id"}},
	"edgehub_messages_received_total":           {labels: []string{"route_output", "id"}},
	"edgehub_messages_sent_total":               {labels: []string{"from", "to", "from_route_output", "to_route_input"}},
	"edgehub_direct_methods_total":              {labels: []string{"from", "to"}},
	"edgehub_queue_length":                      {labels: []string{"endpoint"}},
	"edgehub_messages_dropped_total":            {labels: []string{"from", "from_route_output"}},
	"edgehub_messages_unack_total":              {labels: []string{"from", "from_route_output"}},
	"edgehub_client_connect_failed_total":       {labels: []string{"id"}},
	"edgehub_message_size_bytes*":               {labels: []string{"id"}, average: true},
	"edgehub_message_process_duration_seconds*": {labels: []string{"from", "to"}, average: true},
}

func summaryOf(name string) (summary, bool) {
	if s, ok := summaries[name]; ok {
		return s, true
	}
	for pattern, s := range summaries {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(name, prefix) {
			return s, true
		}
	}
	return summary{}, false
}

// Value is what is kept of a scrape: a series by its name and labels, and its value.
type Value struct {
	Name   string  `json:"name"`
	Labels string  `json:"labels"` // JSON object, sorted
	Value  float64 `json:"value"`
}

// Select keeps what may leave the device: metrics marked for it, without the labels
// that name the device, and with hashes in place of the names of modules.
func Select(samples []Sample) []Value {
	type group struct {
		at  int
		n   float64
		sum summary
	}
	var list []Value
	groups := map[string]*group{}
	for _, s := range samples {
		if s.Labels["ms_telemetry"] != "True" || dropped[s.Labels["quantile"]] || math.IsNaN(s.Value) || math.IsInf(s.Value, 0) {
			continue
		}
		labels := anonymous(s.Labels)
		sum, together := summaryOf(s.Name)
		if together {
			labels = only(labels, sum.labels, s.Labels["quantile"])
		}
		v := Value{Name: s.Name, Labels: text(labels), Value: s.Value}
		key := v.Name + "\x00" + v.Labels
		g := groups[key]
		if g == nil {
			groups[key] = &group{at: len(list), n: 1, sum: sum}
			list = append(list, v)
			continue
		}
		g.n++
		if list[g.at].Value += s.Value; !together {
			list[g.at].Value = s.Value // the same series twice: the last one counts
		}
	}
	for _, g := range groups {
		if g.sum.average {
			list[g.at].Value /= g.n
		}
	}
	return list
}

var dropped = map[string]bool{"0.1": true, "0.5": true, "0.99": true}

func only(labels map[string]string, names []string, quantile string) map[string]string {
	out := map[string]string{}
	for _, n := range names {
		if v, ok := labels[n]; ok {
			out[n] = v
		}
	}
	if quantile != "" {
		out["quantile"] = quantile
	}
	return out
}

func anonymous(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for name, v := range labels {
		switch name {
		case "ms_telemetry", "iothub", "edge_device":
			continue
		case "id":
			device, module, ok := strings.Cut(v, "/")
			v = "device"
			if ok && device != "" {
				v = "device/" + hash(module)
			}
		case "module_name":
			if !strings.HasPrefix(v, "$") {
				v = hash(v)
			}
		case "to", "from", "to_route_input", "from_route_output":
			v = hash(v)
		}
		out[name] = v
	}
	return out
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func text(labels map[string]string) string {
	b, err := json.Marshal(labels)
	if err != nil {
		panic("quality: labels: " + err.Error()) // strings only
	}
	return string(b)
}
