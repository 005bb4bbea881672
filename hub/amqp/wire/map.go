package wire

// Pair is one entry of a Map.
type Pair struct{ Key, Value Value }

// Map is an AMQP map in its order on the wire. Keys should be distinct; the
// first one counts for lookups.
type Map []Pair

// Get returns the value under a string or symbol key.
func (m Map) Get(key string) (Value, bool) {
	for i := range m {
		if k := &m[i].Key; k.str == key && (k.kind == KindString || k.kind == KindSymbol) {
			return m[i].Value, true
		}
	}
	return Value{}, false
}

// Text returns the string or symbol under a key, or "".
func (m Map) Text(key string) string {
	v, _ := m.Get(key)
	s, _ := v.Text()
	return s
}

// With returns the map with one more pair whose key is a string, as
// application properties have them.
func (m Map) With(key string, v Value) Map { return append(m, Pair{String(key), v}) }

// WithSymbol returns the map with one more pair whose key is a symbol, as
// annotations and properties of links have them.
func (m Map) WithSymbol(key string, v Value) Map { return append(m, Pair{Symbol(key), v}) }

// Value returns the map as a Value.
func (m Map) Value() Value {
	if len(m) == 0 {
		return Value{kind: KindMap}
	}
	v := Value{kind: KindMap, items: make([]Value, 0, 2*len(m))}
	for _, p := range m {
		v.items = append(v.items, p.Key, p.Value)
	}
	return v
}

// Equal tells whether both maps hold the same pairs in the same order.
func (m Map) Equal(o Map) bool {
	if len(m) != len(o) {
		return false
	}
	for i := range m {
		if !m[i].Key.Equal(o[i].Key) || !m[i].Value.Equal(o[i].Value) {
			return false
		}
	}
	return true
}
