package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"
)

const (
	// DefaultPriority is the priority of a route that names none, the lowest.
	DefaultPriority = 2_000_000_000
	// DefaultTTL is the time to live where the configuration names none.
	DefaultTTL = 7200 * time.Second

	lowestNumberedPriority = 9
)

// Config is the configuration of the edge hub: the desired properties of $edgeHub.
type Config struct {
	SchemaVersion string       // as configured
	Routes        []NamedRoute // in the order of their names
	TTL           time.Duration
	MaxSizeBytes  int64           // of an in-memory store; 0: no limit
	MQTTBroker    json.RawMessage // schema 1.2: an object, not looked into; nil: none
	Integrity     json.RawMessage // schema 1.3: an object, not looked into; nil: none
}

// NamedRoute is a route with its name and its settings.
type NamedRoute struct {
	Name     string
	Route    *Route
	Priority uint32        // 0 to 9, or DefaultPriority
	TTL      time.Duration // 0: Config.TTL
}

// ConfigError lists all that is wrong with the desired properties.
type ConfigError struct{ Problems []Problem }

// Problem is one fault at one place of the desired properties.
type Problem struct {
	Path string // as in routes.name.priority; empty: the whole document
	Err  error
}

// Error starts with "Error while parsing desired properties", which tools look for
// in the reported status, and names the first problems with their JSON paths.
func (e *ConfigError) Error() string {
	const most = 10
	var b strings.Builder
	b.WriteString("Error while parsing desired properties")
	separator := ": "
	for i, p := range e.Problems {
		if i == most {
			fmt.Fprintf(&b, "; and %d more", len(e.Problems)-most)
			break
		}
		b.WriteString(separator)
		separator = "; "
		if p.Path != "" {
			b.WriteString(p.Path + ": ")
		}
		b.WriteString(p.Err.Error())
	}
	return b.String()
}

// Unwrap gives the causes, among them *Error for routes.
func (e *ConfigError) Unwrap() []error {
	causes := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		causes[i] = p.Err
	}
	return causes
}

func (e *ConfigError) add(path, format string, args ...any) {
	e.Problems = append(e.Problems, Problem{Path: path, Err: fmt.Errorf(format, args...)})
}

// document is the part of the desired properties that concerns this package.
type document struct {
	SchemaVersion json.RawMessage `json:"schemaVersion"`
	Routes        json.RawMessage `json:"routes"`
	Store         json.RawMessage `json:"storeAndForwardConfiguration"`
	MQTTBroker    json.RawMessage `json:"mqttBroker"`
	Integrity     json.RawMessage `json:"integrity"`
}

// ParseConfig reads the desired properties of $edgeHub. It is all or nothing: with
// any fault there is no configuration, and the error, a *ConfigError, lists all
// faults that were found.
func ParseConfig(desired json.RawMessage) (*Config, error) {
	var doc document
	var faults ConfigError
	if err := decodeObject(desired, &doc); err != nil {
		faults.add("", "%w", err)
		return nil, &faults
	}
	version, minor, err := parseVersion(doc.SchemaVersion)
	if err != nil {
		faults.add("schemaVersion", "%w", err)
		return nil, &faults
	}
	cfg := &Config{SchemaVersion: version, TTL: DefaultTTL}
	cfg.readRoutes(doc.Routes, minor, &faults)
	cfg.readStore(doc.Store, minor, &faults)
	if minor >= 2 {
		cfg.MQTTBroker = optionalObject("mqttBroker", doc.MQTTBroker, &faults)
	}
	if minor >= 3 {
		cfg.Integrity = optionalObject("integrity", doc.Integrity, &faults)
	}
	if len(faults.Problems) > 0 {
		return nil, &faults
	}
	return cfg, nil
}

func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// decodeObject decodes a JSON object. What is wrong with it is told in the terms
// of JSON.
func decodeObject(raw json.RawMessage, into any) error {
	if absent(raw) || !isObject(raw) {
		return errors.New("expected a JSON object")
	}
	err := json.Unmarshal(raw, into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("%s: unexpected %s", wrong.Field, wrong.Value)
	}
	return err
}

func isObject(raw json.RawMessage) bool {
	s := strings.TrimLeft(string(raw[:min(len(raw), 64)]), " \t\r\n")
	return strings.HasPrefix(s, "{")
}

func optionalObject(path string, raw json.RawMessage, faults *ConfigError) json.RawMessage {
	if absent(raw) {
		return nil
	}
	if !isObject(raw) {
		faults.add(path, "expected an object")
		return nil
	}
	return raw
}

// parseVersion checks the schema version: 1.0 to 1.3; further parts are ignored.
func parseVersion(raw json.RawMessage) (version string, minor int, err error) {
	if absent(raw) {
		return "", 0, errors.New("missing")
	}
	if json.Unmarshal(raw, &version) != nil {
		return "", 0, errors.New("expected a string")
	}
	parts := strings.Split(version, ".")
	if len(parts) < 2 || len(parts) > 4 {
		return "", 0, fmt.Errorf("%q: expected <major>.<minor>", shorten(version))
	}
	for _, p := range parts {
		if p == "" || !allDigits(p) {
			return "", 0, fmt.Errorf("%q: expected <major>.<minor>", shorten(version))
		}
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil || major != 1 || minor > 3 {
		return "", 0, fmt.Errorf("%q is not supported: expected 1.0 to 1.3", shorten(version))
	}
	return version, minor, nil
}

func (c *Config) readRoutes(raw json.RawMessage, minor int, faults *ConfigError) {
	if absent(raw) {
		if minor >= 1 {
			faults.add("routes", "missing")
		}
		return
	}
	var routes map[string]json.RawMessage
	if err := decodeObject(raw, &routes); err != nil {
		faults.add("routes", "%w", err)
		return
	}
	names := make([]string, 0, len(routes))
	for name := range routes {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		path := "routes." + name
		if name == "" {
			faults.add("routes", "a route has an empty name")
			continue
		}
		c.readRoute(path, name, routes[name], minor, faults)
	}
}

// routeObject is the object form of a route, schema 1.1.
type routeObject struct {
	Route    json.RawMessage `json:"route"`
	Priority json.RawMessage `json:"priority"`
	TTL      json.RawMessage `json:"timeToLiveSecs"`
}

func (c *Config) readRoute(path, name string, raw json.RawMessage, minor int, faults *ConfigError) {
	named := NamedRoute{Name: name, Priority: DefaultPriority}
	var text string
	switch {
	case minor == 0 && absent(raw):
		return
	case minor >= 1 && isObject(raw):
		var object routeObject
		if err := decodeObject(raw, &object); err != nil {
			faults.add(path, "%w", err)
			return
		}
		named.readSettings(path, object, faults)
		path += ".route"
		if absent(object.Route) || json.Unmarshal(object.Route, &text) != nil {
			faults.add(path, "expected a string")
			return
		}
	case !strings.HasPrefix(string(raw), `"`) || json.Unmarshal(raw, &text) != nil:
		expected := "expected a string"
		if minor >= 1 {
			expected += " or an object"
		}
		faults.add(path, "%s", expected)
		return
	}
	if strings.TrimSpace(text) == "" {
		if minor >= 1 {
			faults.add(path, "the route is empty")
		}
		return
	}
	r, err := Parse(text)
	if err != nil {
		faults.add(path, "%w", err)
		return
	}
	named.Route = r
	c.Routes = append(c.Routes, named)
}

func (r *NamedRoute) readSettings(path string, object routeObject, faults *ConfigError) {
	if !absent(object.Priority) {
		p, err := strconv.ParseUint(string(object.Priority), 10, 32)
		if err != nil || p > lowestNumberedPriority && p != DefaultPriority {
			faults.add(path+".priority", "%s: expected 0 to %d or %d",
				shorten(string(object.Priority)), lowestNumberedPriority, DefaultPriority)
		}
		r.Priority = uint32(p)
	}
	if !absent(object.TTL) {
		secs, err := strconv.ParseUint(string(object.TTL), 10, 32)
		if err != nil {
			faults.add(path+".timeToLiveSecs", "%s: expected 0 to %d seconds", shorten(string(object.TTL)), uint32(math.MaxUint32))
		}
		r.TTL = time.Duration(secs) * time.Second
	}
}

// storeObject is storeAndForwardConfiguration.
type storeObject struct {
	TTL    json.RawMessage `json:"timeToLiveSecs"`
	Limits json.RawMessage `json:"storeLimits"`
}

func (c *Config) readStore(raw json.RawMessage, minor int, faults *ConfigError) {
	const path = "storeAndForwardConfiguration"
	if absent(raw) {
		if minor >= 1 {
			faults.add(path, "missing")
		}
		return
	}
	var store storeObject
	if err := decodeObject(raw, &store); err != nil {
		faults.add(path, "%w", err)
		return
	}
	if !absent(store.TTL) {
		secs, err := strconv.ParseInt(string(store.TTL), 10, 32)
		if err != nil {
			faults.add(path+".timeToLiveSecs", "%s: expected whole seconds", shorten(string(store.TTL)))
		}
		c.TTL = time.Duration(secs) * time.Second
	}
	if absent(store.Limits) {
		return
	}
	var limits struct {
		MaxSizeBytes json.RawMessage `json:"maxSizeBytes"`
	}
	if err := decodeObject(store.Limits, &limits); err != nil {
		faults.add(path+".storeLimits", "%w", err)
		return
	}
	if absent(limits.MaxSizeBytes) {
		return
	}
	size, err := strconv.ParseInt(string(limits.MaxSizeBytes), 10, 64)
	if err != nil {
		faults.add(path+".storeLimits.maxSizeBytes", "%s: expected a whole number", shorten(string(limits.MaxSizeBytes)))
	}
	c.MaxSizeBytes = max(size, 0)
}
