package route

import (
	"math"
	"strconv"
	"strings"
)

// step is one part of a body path: name, or name[index].
type step struct {
	name  string
	index int // -1: none
}

// parsePath reads what follows "$body.". On error it returns the offset in s and
// what was expected.
func parsePath(s string) (path []step, offset int, problem string) {
	for start := 0; ; {
		part, _, more := strings.Cut(s[start:], ".")
		st, at, problem := parseStep(part)
		if problem != "" {
			return nil, start + at, problem
		}
		path = append(path, st)
		if !more {
			return path, 0, ""
		}
		start += len(part) + 1
	}
}

func parseStep(part string) (st step, offset int, problem string) {
	open := strings.IndexAny(part, "[]")
	if open < 0 {
		open = len(part)
	}
	st = step{name: part[:open], index: -1}
	switch st.name {
	case "":
		return st, 0, "expected a name in the body path"
	case "*":
		return st, 0, "a body path cannot have the wildcard *"
	}
	if open == len(part) {
		return st, 0, ""
	}
	digits := countWhile(part[open+1:], isDigit)
	if part[open] != '[' || digits == 0 || part[open+1+digits:] != "]" {
		return st, open, "expected an index as in name[0], once per name and at its end"
	}
	n, err := strconv.ParseInt(part[open+1:open+1+digits], 10, 64)
	if err != nil || n > math.MaxInt32 {
		return st, open + 1, "the index is too large"
	}
	st.index = int(n)
	return st, 0, ""
}

// paths is the set of body paths of a table as a tree. Every path has a slot for
// its value; the slots below a tree node are those from its first to its last.
// It does not change once seal was called.
type paths struct {
	root  pathNode
	slots int
}

// pathNode is one object member or array item that some path goes through.
type pathNode struct {
	slot        int // -1: no path ends here
	fields      map[string]*pathNode
	items       map[int]*pathNode
	first, last int // slots of this node and below: first <= slot < last
	refs        []*int
}

func newPaths() *paths { return &paths{root: pathNode{slot: -1}} }

// add registers a path. *slot is set when the set is sealed.
func (p *paths) add(path []step, slot *int) {
	n := &p.root
	for _, st := range path {
		n = n.field(st.name)
		if st.index >= 0 {
			n = n.item(st.index)
		}
	}
	n.refs = append(n.refs, slot)
}

func (n *pathNode) field(name string) *pathNode {
	if n.fields == nil {
		n.fields = map[string]*pathNode{}
	}
	child := n.fields[name]
	if child == nil {
		child = &pathNode{slot: -1}
		n.fields[name] = child
	}
	return child
}

func (n *pathNode) item(i int) *pathNode {
	if n.items == nil {
		n.items = map[int]*pathNode{}
	}
	child := n.items[i]
	if child == nil {
		child = &pathNode{slot: -1}
		n.items[i] = child
	}
	return child
}

// seal numbers the slots.
func (p *paths) seal() { p.slots = p.root.seal(0) }

func (n *pathNode) seal(next int) int {
	n.first = next
	if len(n.refs) > 0 {
		n.slot = next
		for _, ref := range n.refs {
			*ref = next
		}
		n.refs = nil
		next++
	}
	for _, child := range n.fields {
		next = child.seal(next)
	}
	for _, child := range n.items {
		next = child.seal(next)
	}
	n.last = next
	return next
}
