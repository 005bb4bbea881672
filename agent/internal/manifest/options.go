package manifest

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

const (
	optionsKey = "createOptions"
	// chunkSize is the number of characters of one chunk in reported properties.
	chunkSize = 512
	maxChunks = 100
)

// parseCreateOptions joins the chunks and returns the canonical text.
func parseCreateOptions(settings object) (string, error) {
	type chunk struct {
		key   string
		index int // -1 for the bare key
		text  string
	}
	var chunks []chunk
	for _, m := range settings.members {
		if len(m.key) < len(optionsKey) || !strings.EqualFold(m.key[:len(optionsKey)], optionsKey) {
			continue
		}
		c := chunk{key: m.key, index: -1}
		if suffix := m.key[len(optionsKey):]; suffix != "" {
			n, err := strconv.ParseUint(suffix, 10, 8)
			if err != nil || len(suffix) != 2 {
				return "", invalid(settings.at(m.key), "the number of a chunk has two digits")
			}
			c.index = int(n)
		}
		if !isNull(m.value) {
			if err := json.Unmarshal(m.value, &c.text); err != nil {
				return "", invalid(settings.at(m.key), "must be a string")
			}
		}
		chunks = append(chunks, c)
	}
	slices.SortStableFunc(chunks, func(a, b chunk) int { return cmp.Compare(a.index, b.index) })
	var b strings.Builder
	for i, c := range chunks {
		want := i
		if i == 0 {
			want = -1
		}
		if c.index != want {
			return "", invalid(settings.at(c.key), "chunks must be createOptions, createOptions01, createOptions02 and so on without a gap")
		}
		b.WriteString(c.text)
	}
	text, err := CanonicalOptions(b.String())
	if err != nil {
		return "", invalid(settings.at(optionsKey), "%v", err)
	}
	return text, nil
}

// Chunk is one member of reported settings.
type Chunk struct{ Key, Text string }

// ChunkOptions cuts options in pieces for the reported properties.
func ChunkOptions(text string) []Chunk {
	var list []Chunk
	runes := []rune(text)
	for i := 0; i == 0 || len(runes) > 0; i++ {
		n := min(chunkSize, len(runes))
		if i == maxChunks-1 {
			n = len(runes)
		}
		key := optionsKey
		if i > 0 {
			key += string([]byte{'0' + byte(i/10), '0' + byte(i%10)})
		}
		list = append(list, Chunk{Key: key, Text: string(runes[:n])})
		runes = runes[n:]
	}
	return list
}
