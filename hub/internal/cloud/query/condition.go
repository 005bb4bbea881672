package query

import "strings"

// Condition is one on devices that stands alone, as the target condition of a
// deployment: what follows WHERE in a query, "*" for all devices, or nothing for none.
// It may be used from many goroutines.
type Condition struct{ where expr }

// ParseCondition reads a condition. Errors are *route.Error.
func ParseCondition(text string) (Condition, error) {
	switch strings.TrimSpace(text) {
	case "":
		return Condition{constant(false)}, nil
	case "*":
		return Condition{constant(true)}, nil
	}
	return parse(text, func(p *parser) Condition {
		where := p.expr()
		if p.tok.kind != tokEnd {
			p.unexpected("the end of the text or an operator")
		}
		for _, path := range p.paths {
			path.resolve(Devices, "")
		}
		return Condition{where}
	})
}

// Holds tells whether the condition is true for the twin of a device.
func (c Condition) Holds(doc map[string]any) bool { return c.where(doc) == true }
