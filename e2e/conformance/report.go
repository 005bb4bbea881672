package conformance

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
)

type status string

const (
	passed        status = "passed"
	failed        status = "FAILED"
	notApplicable status = "n/a"
)

// result is a cell of the table.
type result struct {
	client, transport, hub, feature string

	status status
	reason string // of a failure, or why it is not applicable; or a figure
}

// report collects results in the order in which they come.
type report struct {
	mu      sync.Mutex
	results []result
}

func (r *report) add(one result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results = append(r.results, one)
}

type counts struct{ passed, failed int }

func (r *report) counts() counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	var n counts
	for _, one := range r.results {
		switch one.status {
		case passed:
			n.passed++
		case failed:
			n.failed++
		case notApplicable:
		}
	}
	return n
}

// row is what both hubs have in common.
type row struct{ client, transport, feature string }

// write writes one line for each client, transport and feature, with a column for
// each hub and one for the AMQP server that both have in them.
func (r *report) write(out io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var order []row
	cells := make(map[row]map[string]result)
	for _, one := range r.results {
		k := row{one.client, one.transport, one.feature}
		if cells[k] == nil {
			cells[k] = make(map[string]result)
			order = append(order, k)
		}
		cells[k][one.hub] = one
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLIENT\tTRANSPORT\tFEATURE\tIOTHUB\tEDGEHUB\tENGINE\tNOTE")
	for _, k := range order {
		cloud, edge, alone := cells[k][hubCloud], cells[k][hubEdge], cells[k][hubNone]
		text := note(cloud, edge)
		if alone.reason != "" {
			text = oneLine(alone.reason)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.client, k.transport, k.feature, cell(cloud), cell(edge), cell(alone), text)
	}
	t.Flush()
}

func cell(r result) string {
	if r.status == "" {
		return "-"
	}
	return string(r.status)
}

// note joins the reasons; one that holds for both hubs is there once.
func note(cloud, edge result) string {
	if cloud.reason == edge.reason || edge.reason == "" {
		return oneLine(cloud.reason)
	}
	if cloud.reason == "" {
		return oneLine(edge.reason)
	}
	return oneLine(hubCloud + ": " + cloud.reason + "; " + hubEdge + ": " + edge.reason)
}

// oneLine keeps the table one: the whole text is in the log.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 150 {
		s = string(r[:150]) + "…"
	}
	return s
}
