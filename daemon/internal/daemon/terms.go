package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// terms are what modules were started under and learn only at a start of theirs. They are
// kept in cache/terms.json, so that a start can tell whether modules may run on.
type terms struct {
	// Config is the digest of the whole configuration but its secrets, which print as stars
	// there too. Most of it is no concern of modules, but one who has changed it expects it
	// to count.
	Config string `json:"config"`
	// TrustBundle is PEM, as modules got it.
	TrustBundle string `json:"trust_bundle"`
}

// hold tells whether modules that were started under t may run on under now. trusts tells
// whether one who knows only that bundle accepts what the edge CA issues now.
func (t terms) hold(now terms, trusts func(bundle string) bool) bool {
	return t.Config == now.Config && (t.TrustBundle == now.TrustBundle || trusts(t.TrustBundle))
}

// terms are those of this start.
func (d *daemon) terms() (terms, error) {
	// The configuration only names the file of the user's bundle.
	doc, err := json.Marshal(struct {
		Config config.Config
		Bundle []byte
	}{d.Config, d.userBundle})
	if err != nil {
		return terms{}, fmt.Errorf("terms of this start: %w", err)
	}
	sum := sha256.Sum256(doc)
	return terms{Config: hex.EncodeToString(sum[:]), TrustBundle: d.authority.TrustBundle()}, nil
}

func (d *daemon) termsFile() string { return filepath.Join(d.home, "cache", "terms.json") }

// lastTerms reads the terms of the last start. What cannot be read holds for nothing.
func (d *daemon) lastTerms(ctx context.Context) terms {
	var t terms
	text, err := os.ReadFile(d.termsFile())
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			d.Log.WarnContext(ctx, "terms of the last start", "error", err)
		}
		return terms{}
	}
	return t
}

// saveTerms notes what all modules know.
func (d *daemon) saveTerms(t terms) error {
	text, err := json.Marshal(t)
	if err == nil {
		err = atomicfile.Write(d.termsFile(), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("terms of this start: %w", err)
	}
	return nil
}
