package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// lineIndex maps dotted keys, tables included, to the line of their first
// appearance; order keeps them as in the file. Tables of an array are known by their
// number as well, as in "image_verification.policy[1].images".
type lineIndex struct {
	line  map[string]int
	order []string
}

// index walks the document without interpreting values, so that later checks can
// name a line.
func index(data []byte) (*lineIndex, error) {
	// A full decode first: it finds what is wrong with the document as a whole, such
	// as a key given twice.
	var whole map[string]any
	if err := toml.Unmarshal(data, &whole); err != nil {
		return nil, decodeError(err)
	}
	x := &lineIndex{line: map[string]int{}}
	var p unstable.Parser
	p.Reset(data)
	var table []string
	counts := map[string]int{}
	numbered := "" // the present table, if it is one of an array
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			var line int
			table, line = keyOf(&p, e)
			x.add(table, line)
			numbered = ""
			if name := strings.Join(table, "."); e.Kind == unstable.ArrayTable {
				numbered = fmt.Sprintf("%s[%d]", name, counts[name])
				counts[name]++
				x.line[numbered] = line
			}
		case unstable.KeyValue:
			x.keyValue(&p, table, e)
			if key, line := keyOf(&p, e); numbered != "" {
				x.line[numbered+"."+strings.Join(key, ".")] = line
			}
		}
	}
	if p.Error() != nil {
		return nil, &Error{Reason: "not a valid TOML document"}
	}
	return x, nil
}

func (x *lineIndex) keyValue(p *unstable.Parser, prefix []string, n *unstable.Node) {
	key, line := keyOf(p, n)
	full := append(append([]string(nil), prefix...), key...)
	x.add(full, line)
	switch v := n.Value(); v.Kind {
	case unstable.InlineTable:
		x.inline(p, full, v)
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); i++ {
			if e := it.Node(); e.Kind == unstable.InlineTable {
				last := len(full) - 1
				x.inline(p, append(slices.Clone(full[:last]), fmt.Sprintf("%s[%d]", full[last], i)), e)
			}
		}
	}
}

func (x *lineIndex) inline(p *unstable.Parser, prefix []string, table *unstable.Node) {
	for it := table.Children(); it.Next(); {
		x.keyValue(p, prefix, it.Node())
	}
}

func (x *lineIndex) add(key []string, line int) {
	for i := range key {
		k := strings.Join(key[:i+1], ".")
		if _, ok := x.line[k]; !ok {
			x.line[k] = line
			x.order = append(x.order, k)
		}
	}
}

func keyOf(p *unstable.Parser, n *unstable.Node) (key []string, line int) {
	for it := n.Key(); it.Next(); {
		k := it.Node()
		if line == 0 {
			line = p.Shape(k.Raw).Start.Line
		}
		key = append(key, string(k.Data))
	}
	return key, line
}

// refused lists keys of the original that would not do here what they say there, and what
// to write instead. A table stands for all that is below it.
var refused = map[string]string{
	"provisioning.registration_id":               "is a key of [provisioning.attestation]",
	"provisioning.always_reprovision_on_startup": "is replaced by auto_reprovisioning_mode = \"AlwaysOnStartup\"",
	"provisioning.dynamic_reprovisioning":        "is replaced by auto_reprovisioning_mode = \"Dynamic\"",
	"moby_runtime.content_trust":                 "is not supported: say in [[image_verification.policy]] which signatures images must have",
}

// unsupported reports the keys of the file that would silently do nothing.
func (x *lineIndex) unsupported() []error {
	var errs []error
	for _, k := range x.order {
		if why, ok := refused[k]; ok {
			errs = append(errs, &Error{Line: x.line[k], Key: k, Reason: why})
		}
	}
	return errs
}
