package check

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Tally counts results. Add is for Run's each.
type Tally struct {
	// WarningsAreErrors makes warnings count as errors.
	WarningsAreErrors                  bool
	Passed, Warnings, Errors, NotTaken int
}

// Add counts one.
func (t *Tally) Add(d Done) {
	switch d.Result {
	case OK:
		t.Passed++
	case Warning:
		if t.WarningsAreErrors {
			t.Errors++
			return
		}
		t.Warnings++
	case Error, Fatal:
		t.Errors++
	case Ignored, Skipped:
		t.NotTaken++
	}
}

// Text writes results for people as they come.
type Text struct {
	Out io.Writer
	// Verbose shows also what was left out, and all details.
	Verbose bool
	Tally

	group string
	err   error
}

// Add writes one result.
func (t *Text) Add(d Done) {
	t.Tally.Add(d)
	mark, word := "√", "OK"
	show := t.Verbose
	switch d.Result {
	case OK:
	case Warning:
		mark, word, show = "‼", "Warning", true
		if t.WarningsAreErrors {
			mark, word = "×", "Error"
		}
	case Error, Fatal:
		mark, word, show = "×", "Error", true
	case Ignored, Skipped:
		if !t.Verbose {
			return
		}
		mark, word = "-", "Skipped"
		if d.Result == Ignored {
			word = "Ignored"
		}
	}
	t.head(d.Group)
	t.printf("%s %s - %s\n", mark, d.Name, word)
	if show {
		for _, line := range d.Details {
			t.printf("    %s\n", strings.ReplaceAll(line, "\n", "\n    "))
		}
	}
}

// head begins a group.
func (t *Text) head(group string) {
	if group == t.group {
		return
	}
	if t.group != "" {
		t.printf("\n")
	}
	t.group = group
	t.printf("%s\n%s\n", group, strings.Repeat("-", len(group)))
}

// End writes the sums and returns the first error of writing.
func (t *Text) End() error {
	t.printf("\n")
	for _, c := range []struct {
		n    int
		text string
	}{
		{t.Passed, "succeeded"}, {t.Warnings, "raised warnings"}, {t.Errors, "raised errors"}, {t.NotTaken, "were skipped; see --verbose"},
	} {
		if c.n > 0 {
			t.printf("%d check(s) %s.\n", c.n, c.text)
		}
	}
	return t.err
}

func (t *Text) printf(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.Out, format, args...)
	}
}

// Document is the JSON form.
type Document struct {
	Additional map[string]any      `json:"additional_info"`
	Checks     map[string]Finished `json:"checks"`
	Tally      `json:"-"`
}

// Finished is one check of a Document.
type Finished struct {
	Result  Result   `json:"result"`
	Details []string `json:"details"`
}

// Add puts one result in.
func (d *Document) Add(done Done) {
	d.Tally.Add(done)
	if d.Checks == nil {
		d.Checks = map[string]Finished{}
	}
	details := done.Details
	if details == nil {
		details = []string{}
	}
	d.Checks[done.ID] = Finished{done.Result, details}
}

// Write writes the document.
func (d *Document) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(d)
}
