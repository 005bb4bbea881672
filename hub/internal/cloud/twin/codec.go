package twin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// A record is one byte of format and the Twin as JSON.
const formatJSON = 1

func encode(t *Twin) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte(formatJSON)
	if err := json.NewEncoder(&b).Encode(t); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return b.Bytes(), nil
}

func decode(raw []byte) (*Twin, error) {
	if len(raw) == 0 || raw[0] != formatJSON {
		return nil, errors.New("record of an unknown format")
	}
	d := json.NewDecoder(bytes.NewReader(raw[1:]))
	d.UseNumber()
	t := &Twin{}
	if err := d.Decode(t); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return t, nil
}
