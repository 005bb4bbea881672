package deployment

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/query"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Codes of refusals.
const (
	NotFound         registry.Code = "ConfigurationNotFound"
	Exists           registry.Code = "ConfigurationAlreadyExists"
	TooMany          registry.Code = "ConfigurationCountLimitExceeded"
	InvalidContent   registry.Code = "InvalidConfigurationContent"
	ContentFixed     registry.Code = "CannotModifyImmutableConfigurationContent"
	InvalidCondition registry.Code = "InvalidConfigurationTargetCondition"
	InvalidMetrics   registry.Code = "InvalidConfigurationCustomMetricsQuery"
)

// Max is how many configurations a hub has at most.
const Max = 100

func refuse(c registry.Code, format string, args ...any) error {
	return &registry.Error{Code: c, Text: fmt.Sprintf(format, args...)}
}

// configuration is one in force. It is replaced, never changed.
type configuration struct {
	doc       rest.Configuration // without results
	manifest  Manifest
	condition query.Condition
}

// base tells whether it says all of what an agent is to run, and is no layer.
func (c *configuration) base() bool { return c.manifest.modules[iothub.AgentModule].replace != nil }

// understand reads what is in a document and adds the queries of its metrics.
func understand(doc rest.Configuration) (*configuration, error) {
	c := &configuration{doc: doc}
	var kinds map[string]json.RawMessage
	if err := json.Unmarshal(doc.Content, &kinds); err != nil {
		return nil, badContent("the content is not an object")
	}
	for _, kind := range []string{"deviceContent", "moduleContent"} {
		if v := kinds[kind]; len(v) > 0 && string(v) != "null" {
			return nil, badContent("this hub deploys modulesContent to edge devices, and not %s", kind)
		}
	}
	var err error
	if c.manifest, err = ParseManifest(doc.Content); err != nil {
		return nil, err
	}
	if c.condition, err = query.ParseCondition(doc.TargetCondition); err != nil {
		return nil, refuse(InvalidCondition, "target condition: %v", err)
	}
	c.doc.SystemMetrics = rest.ConfigurationMetrics{Queries: systemQueries(doc.ID, doc.TargetCondition)}
	// The condition is one part of this, and there is a bound for the whole.
	if text := c.doc.SystemMetrics.Queries[targetedCount]; text != "" {
		if _, err := query.Parse(text); err != nil {
			return nil, refuse(InvalidCondition, "target condition: %v", err)
		}
	}
	for name, problem := range TestMetrics(doc.Metrics.Queries) {
		return nil, refuse(InvalidMetrics, "metric %s: %s", name, problem)
	}
	return c, nil
}

// TestMetrics returns what is wrong with queries, by their names.
func TestMetrics(queries map[string]string) map[string]string {
	wrong := map[string]string{}
	for name, text := range queries {
		if _, err := query.Parse(text); err != nil {
			wrong[name] = err.Error()
		}
	}
	return wrong
}

const targetedCount = "targetedCount"

// systemQueries are what the success of a configuration is measured with.
func systemQueries(id, condition string) map[string]string {
	applied := "select deviceId from devices.modules where moduleId = '$edgeAgent' and configurations.[[" + id + "]].status = 'Applied'"
	reported := applied + " and properties.desired.$version = properties.reported.lastDesiredVersion and properties.reported.lastDesiredStatus.code "
	targeted := ""
	switch strings.TrimSpace(condition) {
	case "":
	case "*":
		targeted = "select deviceId from devices where capabilities.iotEdge = true"
	default:
		targeted = "select deviceId from devices where capabilities.iotEdge = true and (" + condition + ")"
	}
	return map[string]string{targetedCount: targeted, "appliedCount": applied,
		"reportedSuccessfulCount": reported + "= 200", "reportedFailedCount": reported + "!= 200"}
}

// checkID checks the id of a configuration: that of a device in lower case, without
// the marks that have a meaning in queries.
func checkID(id string) error {
	const marks = "-+%_*!'"
	ok := func(r rune) bool {
		return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune(marks, r)
	}
	if len(id) > iothub.MaxIDLength || id == "" || strings.ContainsFunc(id, func(r rune) bool { return !ok(r) }) {
		return refuse(registry.ArgumentInvalid, "the id of a configuration has up to %d lower-case letters, digits and any of %s", iothub.MaxIDLength, marks)
	}
	return nil
}

// change is what the body of a Put says.
type change struct {
	doc        rest.Configuration
	hasContent bool
}

// parseChange reads the body of a Put. What the hub alone says is left out.
func parseChange(id string, body []byte) (change, error) {
	if err := checkID(id); err != nil {
		return change{}, err
	}
	in := struct {
		rest.Configuration
		Priority *int `json:"priority"`
	}{}
	if err := json.Unmarshal(body, &in); err != nil {
		return change{}, refuse(registry.ArgumentInvalid, "the body is not a configuration document")
	}
	if in.ID != "" && in.ID != id {
		return change{}, refuse(registry.ArgumentInvalid, "the id in the body is not that of the path")
	}
	c := change{doc: rest.Configuration{ID: id, SchemaVersion: in.SchemaVersion, Labels: in.Labels, ContentType: in.ContentType,
		Content: in.Content, TargetCondition: in.TargetCondition, Metrics: rest.ConfigurationMetrics{Queries: in.Metrics.Queries}}}
	if in.Priority != nil {
		c.doc.Priority = *in.Priority
	}
	if c.doc.Priority < 0 {
		return change{}, refuse(registry.ArgumentInvalid, "the priority is below 0")
	}
	c.hasContent = len(in.Content) > 0 && string(in.Content) != "null"
	return c, nil
}

// sameContent compares contents as JSON.
func sameContent(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	rawX, errX := json.Marshal(x)
	rawY, errY := json.Marshal(y)
	return errX == nil && errY == nil && bytes.Equal(rawX, rawY)
}

// rank orders configurations: the last one counts most.
func rank(all []*configuration) {
	slices.SortFunc(all, func(a, b *configuration) int {
		if d := a.doc.Priority - b.doc.Priority; d != 0 {
			return d
		}
		if d := a.doc.Created.Compare(b.doc.Created.Time); d != 0 {
			return d
		}
		return strings.Compare(a.doc.ID, b.doc.ID)
	})
}

// document returns a copy that may be filled in; its maps are there, if empty.
func (c *configuration) document() rest.Configuration {
	doc := c.doc
	for _, m := range []*map[string]string{&doc.Labels, &doc.Metrics.Queries, &doc.SystemMetrics.Queries} {
		own := map[string]string{}
		maps.Copy(own, *m)
		*m = own
	}
	doc.Metrics.Results, doc.SystemMetrics.Results = map[string]int{}, map[string]int{}
	return doc
}
