package method

import (
	"bytes"
	"context"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/agent/internal/edged"
)

// logRequest is the payload of GetModuleLogs, and a part of that of UploadModuleLogs.
type logRequest struct {
	Items       json.RawMessage
	Encoding    string
	ContentType string
}

type logItem struct {
	ID     string
	Filter logFilter
}

// logFilter selects lines. since and until are a string or, in older requests, a
// number of Unix seconds.
type logFilter struct {
	Tail             *int
	Since, Until     timeText
	LogLevel         *int
	Regex            string
	IncludeTimestamp bool

	pattern *regexp.Regexp
}

type timeText string

// UnmarshalJSON takes a string or a number.
func (t *timeText) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if n := json.Number(string(b)); len(b) > 0 && b[0] != '"' {
		if _, err := n.Int64(); err != nil {
			return bad("since and until are times, not %s", b)
		}
		*t = timeText(n)
		return nil
	}
	return json.Unmarshal(b, (*string)(t))
}

// items reads the list, or the one object in its place, and checks each.
func (r *logRequest) items() ([]logItem, error) {
	raw := bytes.TrimSpace(r.Items)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, bad("items are missing")
	}
	var list []logItem
	if raw[0] == '{' {
		list = make([]logItem, 1)
		if err := json.Unmarshal(raw, &list[0]); err != nil {
			return nil, bad("items are malformed: %w", err)
		}
	} else if err := json.Unmarshal(raw, &list); err != nil {
		return nil, bad("items are malformed: %w", err)
	}
	for i := range list {
		f := &list[i].Filter
		if list[i].ID == "" {
			return nil, bad("an item has no id")
		}
		if f.Tail != nil && *f.Tail < 0 {
			return nil, bad("tail %d is negative", *f.Tail)
		}
		if f.Regex == "" {
			continue
		}
		var err error
		if f.pattern, err = regexp.Compile(f.Regex); err != nil {
			return nil, bad("regex: %w", err)
		}
	}
	return list, nil
}

// selected is a module and how to read its log.
type selected struct {
	module string
	filter logFilter
}

func (r *logRequest) format() (format, error) {
	zip, err := choice("encoding", r.Encoding, "none", "gzip")
	if err != nil {
		return format{}, err
	}
	asJSON, err := choice("contentType", r.ContentType, "text", "json")
	return format{gzip: zip, json: asJSON}, err
}

// selection finds the logs that the request asks for.
func (h *Handler) selection(ctx context.Context, r logRequest) ([]selected, error) {
	items, err := r.items()
	if err != nil {
		return nil, err
	}
	return h.match(ctx, items)
}

// match finds the modules that items name: "all", or a regular expression that
// need not match the whole name. The first item that matches a module counts.
func (h *Handler) match(ctx context.Context, items []logItem) ([]selected, error) {
	patterns := make([]*regexp.Regexp, len(items))
	for i, item := range items {
		if strings.EqualFold(item.ID, "all") {
			continue
		}
		var err error
		if patterns[i], err = regexp.Compile("(?i:" + item.ID + ")"); err != nil {
			return nil, bad("id %q: %w", item.ID, err)
		}
	}
	modules, err := h.daemon.Modules(ctx)
	if err != nil {
		return nil, err
	}
	var list []selected
	for i, p := range patterns {
		for _, m := range modules {
			if contains(list, m.Name) || p != nil && !p.MatchString(m.Name) {
				continue
			}
			list = append(list, selected{m.Name, items[i].Filter})
		}
	}
	return list, nil
}

func contains(list []selected, module string) bool {
	for _, s := range list {
		if s.module == module {
			return true
		}
	}
	return false
}

// tailHere tells whether the agent itself cuts to the last lines, after filtering.
func (f logFilter) tailHere() bool {
	return f.Tail != nil && f.Since != "" && f.Until != ""
}

func (f logFilter) query() edged.LogQuery {
	q := edged.LogQuery{Since: string(f.Since), Until: string(f.Until)}
	if f.Tail != nil && !f.tailHere() {
		q.Tail = strconv.Itoa(*f.Tail)
	}
	return q
}
