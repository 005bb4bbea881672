package route

import "github.com/breakwater-iot/breakwater/proto/iothub"

// Result is what a condition says about a message. Only True routes it.
type Result uint8

// The results of a condition. A null counts as False; a number, a string, a body
// value that is no bool, and the empty condition count as Undefined.
const (
	Undefined Result = iota
	False
	True
)

// String returns "true", "false" or "undefined".
func (r Result) String() string {
	switch r {
	case True:
		return "true"
	case False:
		return "false"
	}
	return "undefined"
}

// Condition is a compiled condition. It is immutable and safe for concurrent use.
type Condition struct {
	paths *paths
	eval  evaluator // nil: the empty condition
	typ   typ
}

// CompileCondition compiles a condition without a route around it. Blank text is
// the empty condition, which is undefined for every message; text left over behind
// the condition is an error. Errors are of type *Error.
func CompileCondition(text string) (*Condition, error) {
	n, err := parse(text, func(p *parser) *node {
		if p.tok.kind == tokEnd {
			return nil
		}
		n := p.expr(1)
		if p.tok.kind != tokEnd {
			p.unexpected("an operator or the end of the text")
		}
		return n
	})
	if err != nil {
		return nil, err
	}
	c := &Condition{paths: newPaths()}
	if n != nil {
		c.eval, c.typ = generator{c.paths}.node(n), n.typ
	}
	c.paths.seal()
	return c, nil
}

// Evaluate applies the condition to a message; whatever the message holds, it has
// a result.
func (c *Condition) Evaluate(m *iothub.Message) Result {
	if c.eval == nil {
		return Undefined
	}
	switch v := c.eval(&env{msg: m}); {
	case v.isTrue():
		return True
	case v.isFalse(), c.typ == typNull:
		return False
	}
	return Undefined
}
