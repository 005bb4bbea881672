package query

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
)

var aggregates = []string{"count", "sum", "avg", "min", "max"}

// group collects what its documents say.
type group struct {
	row     map[string]any // of the columns that are paths
	columns []column       // of the aggregates, by the index of the item
}

// column is one aggregate.
type column struct {
	count   int // of documents for COUNT, of values for others
	sum     float64
	least   any
	most    any
	invalid bool // a value of another type than the rest
}

// groupRows works through all documents and returns the rows behind a key.
func (q *Query) groupRows(docs Docs, after string) (iter.Seq2[Doc, error], error) {
	all := map[string]*group{}
	if q.groups == nil {
		all[groupKey(nil)] = q.newGroup(nil) // one row, also of nothing
	}
	for d, err := range q.matching(docs, "") {
		if err != nil {
			return nil, err
		}
		values := make([]any, len(q.groups))
		for i, p := range q.groups {
			values[i] = p.of(d.Body)
		}
		key := groupKey(values)
		g := all[key]
		if g == nil {
			g = q.newGroup(d.Body)
			all[key] = g
		}
		g.add(q.items, d.Body)
	}
	return func(yield func(Doc, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if key > after && !yield(Doc{Key: key, Body: all[key].result(q.items)}, nil) {
				return
			}
		}
	}, nil
}

// groupKey is the same for equal values and for no others, and never empty.
func groupKey(values []any) string {
	key := []byte{'g'}
	for _, v := range values {
		if v == undefined {
			key = append(key, '?', '\n') // no JSON begins so
			continue
		}
		if f, ok := numberOf(v); ok {
			v = f // 1 and 1.0 are one value
		}
		raw, err := json.Marshal(v)
		if err != nil {
			raw = fmt.Append(nil, v) // cannot be: documents were JSON
		}
		key = append(append(key, raw...), '\n')
	}
	return string(key)
}

func (q *Query) newGroup(doc map[string]any) *group {
	g := &group{row: map[string]any{}, columns: make([]column, len(q.items))}
	for _, it := range q.items {
		if it.aggregate == "" {
			if v := it.path.of(doc); v != undefined {
				g.row[it.name] = v
			}
		}
	}
	return g
}

func (g *group) add(items []item, doc map[string]any) {
	for i, it := range items {
		switch it.aggregate {
		case "":
		case "count":
			g.columns[i].count++
		default:
			if v := it.path.of(doc); v != undefined && v != nil {
				g.columns[i].add(v)
			}
		}
	}
}

func (c *column) add(v any) {
	if f, ok := numberOf(v); ok {
		c.sum += f
	}
	if c.count++; c.count == 1 {
		c.least, c.most = v, v
	}
	order, hasOrder, ok := compare(v, c.least)
	if !ok || !hasOrder {
		c.invalid = true
		return
	}
	if order < 0 {
		c.least = v
	}
	if order, _, _ := compare(v, c.most); order > 0 {
		c.most = v
	}
}

// result is undefined for SUM and AVG of other values than numbers, for MIN and MAX of
// values that have no order, and for all of them without a value.
func (c *column) result(aggregate string) any {
	_, number := numberOf(c.least)
	switch {
	case aggregate == "count":
		return c.count
	case c.count == 0 || c.invalid || !number && (aggregate == "sum" || aggregate == "avg"):
		return undefined
	case aggregate == "sum":
		return finite(c.sum)
	case aggregate == "avg":
		return finite(c.sum / float64(c.count))
	case aggregate == "min":
		return c.least
	}
	return c.most
}

func (g *group) result(items []item) map[string]any {
	for i, it := range items {
		if it.aggregate == "" {
			continue
		}
		if v := g.columns[i].result(it.aggregate); v != undefined {
			g.row[it.name] = v
		}
	}
	return g.row
}
