package bench

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Parts reads the output of `go test -bench` of any number of rounds and prints the
// median of each figure. Benchmarks whose names differ only in a last element "by=X"
// stand beside each other, and each is compared with the first of them.
func Parts(in io.Reader, out io.Writer, each func(line string)) error {
	p := &parts{figures: make(map[string]map[string][]float64)}
	lines := bufio.NewScanner(in)
	failed := ""
	for lines.Scan() {
		line := lines.Text()
		each(line)
		if strings.HasPrefix(line, "--- FAIL") || strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "panic:") {
			failed = line
		}
		if name, ok := strings.CutPrefix(line, "pkg: "); ok {
			p.pkg = name[strings.Index(name, "/hub/")+1:]
		}
		if err := p.add(line); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if failed != "" {
		return fmt.Errorf("a benchmark failed: %s", failed)
	}
	return p.print(out)
}

type parts struct {
	pkg     string
	order   []string                        // of benchmarks, with their package
	figures map[string]map[string][]float64 // by benchmark and unit
}

// result is a line of a benchmark: its name, a count, and values with their units.
var result = regexp.MustCompile(`^Benchmark(\S+?)(-\d+)?\s+\d+\s+(.*\S)\s*$`)

func (p *parts) add(line string) error {
	m := result.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	name := p.pkg + " " + strings.ReplaceAll(m[1], "_", " ")
	if p.figures[name] == nil {
		p.figures[name] = make(map[string][]float64)
		p.order = append(p.order, name)
	}
	fields := strings.Fields(m[3])
	for i := 0; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return fmt.Errorf("benchmark line %q: %w", line, err)
		}
		p.figures[name][fields[i+1]] = append(p.figures[name][fields[i+1]], v)
	}
	return nil
}

// Units that have a column of their own.
const (
	unitTime, unitBytes, unitAllocs = "ns/op", "B/op", "allocs/op"
)

func (p *parts) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	pkg, base, baseTime, rounds := "", "", 0.0, 0
	for _, name := range p.order {
		figures := p.figures[name]
		at, benchmark, _ := strings.Cut(name, " ")
		if at != pkg {
			fmt.Fprintf(w, "\n%s\ttime\tratio\tbytes\tallocations\t\n", at)
			pkg = at
		}
		group, by, compared := strings.Cut(name, "by=")
		ratio, took := "", middleOf(figures[unitTime])
		switch {
		case !compared:
		case group == base:
			benchmark = strings.Repeat(" ", len(benchmark)-len("by=")-len(by)) + by
			ratio = fmt.Sprintf("%.2f x", took/baseTime)
		default:
			benchmark = strings.Replace(benchmark, "by=", "", 1)
			base, baseTime, ratio = group, took, "1"
		}
		rounds = max(rounds, len(figures[unitTime]))
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", benchmark, nanoseconds(took), ratio,
			count(figures[unitBytes]), count(figures[unitAllocs]), others(figures))
	}
	fmt.Fprintf(w, "\nmedian of %d rounds\n", rounds)
	return w.Flush()
}

func middleOf(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

func count(values []float64) string {
	if len(values) == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f", middleOf(values))
}

func nanoseconds(ns float64) string {
	for _, unit := range []struct {
		name string
		ns   float64
	}{{"s", 1e9}, {"ms", 1e6}, {"µs", 1e3}} {
		if ns >= unit.ns {
			return threeDigits(ns/unit.ns) + " " + unit.name
		}
	}
	return threeDigits(ns) + " ns"
}

// others are the figures of a benchmark's own.
func others(figures map[string][]float64) string {
	var list []string
	for _, unit := range slices.Sorted(maps.Keys(figures)) {
		switch unit {
		case unitTime, unitBytes, unitAllocs:
		default:
			list = append(list, threeDigits(middleOf(figures[unit]))+" "+unit)
		}
	}
	return strings.Join(list, ", ")
}

// threeDigits leaves three digits that count, and all of those before the point.
func threeDigits(v float64) string {
	digits := 0
	for rest := math.Abs(v); rest < 100 && digits < 2; rest *= 10 {
		digits++
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if digits > 0 {
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	return text
}
