package quality

import (
	"fmt"
	"strconv"
	"strings"
)

// Sample is one value of one series.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// Parse reads the text format of Prometheus. Comments and timestamps are skipped.
func Parse(text string) ([]Sample, error) {
	var list []Sample
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parseSample(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		list = append(list, s)
	}
	return list, nil
}

func parseSample(line string) (Sample, error) {
	end := strings.IndexAny(line, "{ \t")
	if end <= 0 {
		return Sample{}, fmt.Errorf("no name")
	}
	s := Sample{Name: line[:end], Labels: map[string]string{}}
	rest := line[end:]
	if rest[0] == '{' {
		var err error
		if rest, err = parseLabels(rest[1:], s.Labels); err != nil {
			return Sample{}, err
		}
	}
	fields := strings.Fields(rest)
	if len(fields) < 1 || len(fields) > 2 {
		return Sample{}, fmt.Errorf("%d values", len(fields))
	}
	var err error
	if s.Value, err = strconv.ParseFloat(fields[0], 64); err != nil {
		return Sample{}, fmt.Errorf("no number")
	}
	return s, nil
}

// parseLabels reads up to the closing brace and returns what is behind it.
func parseLabels(s string, into map[string]string) (rest string, err error) {
	for {
		s = strings.TrimLeft(s, ", \t")
		if strings.HasPrefix(s, "}") {
			return s[1:], nil
		}
		name, after, ok := strings.Cut(s, `="`)
		if !ok {
			return "", fmt.Errorf("labels do not end")
		}
		value, after, err := parseValue(after)
		if err != nil {
			return "", err
		}
		into[strings.TrimSpace(name)], s = value, after
	}
}

func parseValue(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\':
			if i++; i == len(s) {
				return "", "", fmt.Errorf("label does not end")
			}
			if s[i] == 'n' {
				b.WriteByte('\n')
				continue
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", fmt.Errorf("label does not end")
}
