package twin

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// joinPatches returns one patch that does what the first and then the second do.
// Unlike a merge into a document it keeps nulls, since they still have to delete
// something in the cloud.
func joinPatches(first, second json.RawMessage) (json.RawMessage, error) {
	if len(first) == 0 {
		return second, nil
	}
	a, err := object(first)
	if err != nil {
		return nil, err
	}
	b, err := object(second)
	if err != nil {
		return nil, err
	}
	joined, err := json.Marshal(join(a, b))
	if err != nil {
		return nil, fmt.Errorf("join patches: %w", err)
	}
	return joined, nil
}

func object(raw json.RawMessage) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	return m, nil
}

func join(a, b map[string]any) map[string]any {
	for k, v := range b {
		later, ok1 := v.(map[string]any)
		earlier, ok2 := a[k].(map[string]any)
		if ok1 && ok2 {
			a[k] = join(earlier, later)
			continue
		}
		// An object after a null or a scalar replaces it as a whole: the cloud
		// would merge it into what was there before the null, so the null of the
		// members that vanish is lost. Sending is then still right for scalars;
		// after a null the members of the old object come back until the next
		// full report. The original has the same limit.
		a[k] = v
	}
	return a
}

// minus returns what of pending is not yet done by sent: the members that were
// changed after sent was taken. Both are patches; pending began as sent.
func minus(pending, sent json.RawMessage) (json.RawMessage, error) {
	if bytes.Equal(pending, sent) {
		return nil, nil
	}
	p, err := object(pending)
	if err != nil {
		return nil, err
	}
	s, err := object(sent)
	if err != nil {
		return nil, err
	}
	subtract(p, s)
	if len(p) == 0 {
		return nil, nil
	}
	rest, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("pending patch: %w", err)
	}
	return rest, nil
}

func subtract(p, s map[string]any) {
	for k, sv := range s {
		pv, ok := p[k]
		if !ok {
			continue
		}
		pm, ok1 := pv.(map[string]any)
		sm, ok2 := sv.(map[string]any)
		if ok1 && ok2 {
			subtract(pm, sm)
			if len(pm) == 0 {
				delete(p, k)
			}
			continue
		}
		if equal(pv, sv) {
			delete(p, k)
		}
	}
}

func equal(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
