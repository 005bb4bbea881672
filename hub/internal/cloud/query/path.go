package query

import (
	"slices"
	"strings"
)

// path names a property of a document.
type path struct {
	steps  []string
	offset int // in the text
}

// roots are the members of a twin. Their names, and no others, count in any case.
var roots = []string{"deviceId", "moduleId", "etag", "deviceEtag", "status", "statusReason", "statusUpdateTime",
	"connectionState", "lastActivityTime", "cloudToDeviceMessageCount", "authenticationType", "x509Thumbprint", "modelId",
	"version", "tags", "properties", "capabilities", "deviceScope", "parentScopes", "configurations"}

// resolve takes the name of the collection off, and writes the first name as it is
// written in documents.
func (p *path) resolve(c Collection, alias string) {
	prefix := strings.Split(c.String(), ".")
	switch {
	case alias != "" && len(p.steps) > 1 && p.steps[0] == alias:
		p.steps = p.steps[1:]
	case len(p.steps) > len(prefix) && slices.EqualFunc(p.steps[:len(prefix)], prefix, strings.EqualFold):
		p.steps = p.steps[len(prefix):]
	}
	for _, name := range roots {
		if strings.EqualFold(p.steps[0], name) {
			p.steps[0] = name
		}
	}
}

// of is an expr.
func (p *path) of(doc map[string]any) any {
	var at any = doc
	for _, step := range p.steps {
		object, ok := at.(map[string]any)
		if !ok {
			return undefined
		}
		if at, ok = object[step]; !ok {
			return undefined
		}
	}
	return at
}

func (p *path) same(q *path) bool { return slices.Equal(p.steps, q.steps) }

// String writes the path for messages.
func (p *path) String() string { return shorten(strings.Join(p.steps, ".")) }
