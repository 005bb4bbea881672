package imagegc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// Kept is the file of images that stay although no module is made from them: a list of
// ids. It is safe for concurrent use.
type Kept struct {
	path string

	mu  sync.Mutex
	ids []string
}

// OpenKept reads <dir>/kept, which need not exist. A file that is not understood counts
// as empty: whoever needs the images says so again.
func OpenKept(dir string, log *slog.Logger) (*Kept, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("kept images: %w", err)
	}
	k := &Kept{path: filepath.Join(dir, "kept")}
	text, err := os.ReadFile(k.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("kept images: %w", err)
	default:
		if err := json.Unmarshal(text, &k.ids); err != nil {
			log.Warn("list of kept images not understood", "error", err)
			k.ids = nil
		}
	}
	return k, nil
}

// IDs returns the ids.
func (k *Kept) IDs() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.ids)
}

// Set replaces the ids, on disk first.
func (k *Kept) Set(ids []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.Equal(ids, k.ids) {
		return nil
	}
	text, err := json.Marshal(ids)
	if err == nil {
		err = atomicfile.Write(k.path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("kept images: %w", err)
	}
	k.ids = slices.Clone(ids)
	return nil
}
