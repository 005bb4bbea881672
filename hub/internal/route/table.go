package route

import (
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Hit is one endpoint that a message goes to.
type Hit struct {
	Endpoint string
	Sink     Sink
	Priority uint32        // 0 is the highest
	TTL      time.Duration // of the route; 0: the configuration's
}

// Endpoint is a sink of a table.
type Endpoint struct {
	ID   string
	Sink Sink
	// Priorities are those that routes give to messages for this endpoint, in
	// ascending order.
	Priorities []uint32
}

// Table applies the routes of a configuration to messages. It is immutable and
// safe for concurrent use.
type Table struct {
	routes    []entry
	endpoints []Endpoint
	bySource  map[string][]int // normalized source -> routes, in their order
	deepest   int              // slashes in the longest source
	paths     *paths
	envs      sync.Pool // of *matchEnv
}

// entry is a route of a table.
type entry struct {
	endpoint int
	priority uint32
	ttl      time.Duration
	eval     evaluator // nil: every message
}

// matchEnv is the working memory of one Match.
type matchEnv struct {
	env
	chosen []int // per endpoint: 1 + the route that won so far
	found  []int // endpoints with a route, in the order found
	source []byte
}

// NewTable compiles the routes of a configuration for an edge device. A nil
// configuration is an empty one.
func NewTable(cfg *Config, edgeDevice string) *Table {
	t := &Table{bySource: map[string][]int{}, paths: newPaths()}
	ids := map[string]int{}
	g := generator{t.paths}
	if cfg == nil {
		cfg = &Config{}
	}
	for i, named := range cfg.Routes {
		r := named.Route
		id := r.Sink.EndpointID(edgeDevice)
		at, known := ids[id]
		if !known {
			at = len(t.endpoints)
			ids[id] = at
			t.endpoints = append(t.endpoints, Endpoint{ID: id, Sink: r.Sink})
		}
		t.endpoints[at].addPriority(named.Priority)
		e := entry{endpoint: at, priority: named.Priority, ttl: named.TTL}
		if c := r.condition; c.op != opLiteral || !c.val.isTrue() {
			e.eval = g.node(c)
		}
		t.routes = append(t.routes, e)
		t.bySource[r.prefix] = append(t.bySource[r.prefix], i)
		t.deepest = max(t.deepest, strings.Count(r.prefix, "/"))
	}
	t.paths.seal()
	t.envs.New = func() any { return &matchEnv{chosen: make([]int, len(t.endpoints))} }
	return t
}

func (e *Endpoint) addPriority(p uint32) {
	at := len(e.Priorities)
	for at > 0 && e.Priorities[at-1] >= p {
		if at--; e.Priorities[at] == p {
			return
		}
	}
	e.Priorities = append(e.Priorities, 0)
	copy(e.Priorities[at+1:], e.Priorities[at:])
	e.Priorities[at] = p
}

// Endpoints lists the endpoints of all routes, each once, in the order of the
// routes. The caller must not change what it refers to.
func (t *Table) Endpoints() []Endpoint { return append([]Endpoint(nil), t.endpoints...) }

// Match appends the endpoints of a message to hits: one hit for each endpoint, of
// the matching route with the smallest priority number and, among equals, the
// first. The hits hold nothing of the message. The message must not change while
// Match runs.
func (t *Table) Match(m *iothub.Message, hits []Hit) []Hit {
	if len(t.routes) == 0 {
		return hits
	}
	e := t.envs.Get().(*matchEnv)
	e.msg = m
	e.source = appendSource(e.source[:0], m)
	depth := 0
	for i, c := range e.source {
		if c != '/' {
			continue
		}
		if depth++; depth > t.deepest {
			break
		}
		for _, r := range t.bySource[string(e.source[:i+1])] {
			t.try(e, r)
		}
	}
	for _, at := range e.found {
		r := &t.routes[e.chosen[at]-1]
		hits = append(hits, Hit{Endpoint: t.endpoints[at].ID, Sink: t.endpoints[at].Sink, Priority: r.priority, TTL: r.ttl})
		e.chosen[at] = 0
	}
	e.found = e.found[:0]
	e.reset()
	t.envs.Put(e)
	return hits
}

// try evaluates a route unless a better one for its endpoint was found.
func (t *Table) try(e *matchEnv, i int) {
	r := &t.routes[i]
	best := e.chosen[r.endpoint] - 1
	if best >= 0 {
		b := &t.routes[best]
		if b.priority < r.priority || b.priority == r.priority && best < i {
			return
		}
	}
	if r.eval != nil && !r.eval(&e.env).isTrue() {
		return
	}
	if best < 0 {
		e.found = append(e.found, r.endpoint)
	}
	e.chosen[r.endpoint] = i + 1
}
