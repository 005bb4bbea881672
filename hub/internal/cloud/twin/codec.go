package twin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// A record is one byte of format and the Twin as JSON.
const formatJSON = 1

func encode(t *Twin) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte(formatJSON)
	if err := json.NewEncoder(&b).Encode(t); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if b.Len() > store.MaxValue {
		return nil, fmt.Errorf("%w: %d bytes of properties and metadata on disk, at most %d", ErrTooLarge, b.Len(), store.MaxValue)
	}
	return b.Bytes(), nil
}

// Storable tells whether the twin can be written: a section of very many small properties can
// be within its limit, and too large with their metadata. Errors wrap ErrTooLarge.
func (t *Twin) Storable() error {
	_, err := encode(t)
	return err
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
