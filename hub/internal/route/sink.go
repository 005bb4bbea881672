package route

import "strings"

// UpstreamEndpoint is the id of the endpoint that leads to the cloud or parent hub.
const UpstreamEndpoint = "iothub"

// Sink is where a route leads: upstream, or to an input of a module on this device.
type Sink struct {
	Upstream bool
	Module   string // unless Upstream
	Input    string
}

// EndpointID names the endpoint, and its queues, of a sink on this edge device:
// "iothub", or "{edgeDevice}/{module}/{input}".
func (s Sink) EndpointID(edgeDevice string) string {
	if s.Upstream {
		return UpstreamEndpoint
	}
	return edgeDevice + "/" + s.Module + "/" + s.Input
}

// String writes the sink as in a route.
func (s Sink) String() string {
	if s.Upstream {
		return "$upstream"
	}
	return `BrokeredEndpoint("/modules/` + s.Module + `/inputs/` + s.Input + `")`
}

// sink reads what follows INTO.
func (p *parser) sink() Sink {
	t := p.tok
	switch t.kind {
	case tokSystem:
		if !strings.EqualFold(t.text, "$upstream") {
			p.fail(t.start, "unknown endpoint %q: expected $upstream", shorten(t.text))
		}
		p.skipLast()
		return Sink{Upstream: true}
	case tokName:
		if !strings.EqualFold(t.text, "BrokeredEndpoint") {
			p.fail(t.start, "unknown endpoint %q: expected $upstream or BrokeredEndpoint", shorten(t.text))
		}
	default:
		p.unexpected(`$upstream or BrokeredEndpoint("/modules/<module>/inputs/<input>")`)
	}
	p.advance()
	if !p.take(tokOpenParen) {
		p.unexpected(`"("`)
	}
	name := p.tok
	if name.kind != tokString {
		p.unexpected("an endpoint in quotes")
	}
	p.advance()
	if p.tok.kind != tokCloseParen {
		p.unexpected(`")"`)
	}
	p.skipLast()
	s, ok := parseInput(unescape(name.text[1 : len(name.text)-1]))
	if !ok {
		p.fail(name.start, "bad endpoint %s: expected \"/modules/<module>/inputs/<input>\"", shorten(name.text))
	}
	return s
}

// skipLast leaves the lookahead empty: what follows the route need not be tokens.
func (p *parser) skipLast() { p.tok = token{kind: tokEnd, start: p.tok.end()} }

// parseInput reads "/modules/<module>/inputs/<input>".
func parseInput(s string) (Sink, bool) {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "/"), "/")
	parts := strings.Split(s, "/")
	if len(parts) != 4 || !strings.EqualFold(parts[0], "modules") || !strings.EqualFold(parts[2], "inputs") ||
		parts[1] == "" || parts[3] == "" {
		return Sink{}, false
	}
	return Sink{Module: parts[1], Input: parts[3]}, true
}
