package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// cacheDocument is the cache file.
type cacheDocument struct {
	Hub     string     `json:"hub"`
	Device  string     `json:"device"`
	Modules []Identity `json:"modules"`
}

func (m *Manager) loadCache() error {
	data, err := os.ReadFile(m.opt.CacheFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read identity cache: %w", err)
	}
	var doc cacheDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		m.opt.Log.Warn("identity cache is damaged and ignored", "error", err)
		return nil
	}
	if doc.Hub != m.opt.Hub || doc.Device != m.opt.Device {
		return nil
	}
	for _, i := range doc.Modules {
		m.known[i.ModuleID] = i
	}
	return nil
}

// remember changes the known identities, and the file when that made a difference.
func (m *Manager) remember(change func(known map[string]Identity)) error {
	m.save.Lock()
	defer m.save.Unlock()
	m.mu.Lock()
	before := maps.Clone(m.known)
	change(m.known)
	same := maps.Equal(before, m.known)
	m.mu.Unlock()
	if same {
		return nil
	}
	data, err := json.Marshal(cacheDocument{Hub: m.opt.Hub, Device: m.opt.Device, Modules: m.remembered()})
	if err != nil {
		return fmt.Errorf("encode identity cache: %w", err)
	}
	if err := atomicfile.Write(m.opt.CacheFile, data, 0o600); err != nil {
		return fmt.Errorf("write identity cache: %w", err)
	}
	return nil
}
