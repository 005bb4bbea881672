// Package imagegc removes images that no module has used for long (spec
// security-daemon 12). Uses remembers what the daemon pulled and used, and when;
// Run removes from that, once in so many days. Images that the daemon did not
// bring are never touched.
package imagegc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// Uses is the file of images and when each was used last: lines of image id and
// Unix seconds. It is safe for concurrent use.
type Uses struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	last map[string]time.Time
}

// Open reads <dir>/image_use, which need not exist. A line that is not understood
// is left out: that image stays for ever, which harms less than no start.
func Open(dir string, log *slog.Logger) (*Uses, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("image uses: %w", err)
	}
	u := &Uses{path: filepath.Join(dir, "image_use"), log: log}
	text, err := os.ReadFile(u.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image uses: %w", err)
	}
	u.last = parse(text, log)
	return u, nil
}

func parse(text []byte, log *slog.Logger) map[string]time.Time {
	out := map[string]time.Time{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		id, at, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		seconds, err := strconv.ParseInt(strings.TrimSpace(at), 10, 64)
		if id == "" || err != nil || seconds < 0 || seconds > 1<<40 {
			log.Warn("line of the image uses not understood", "line", lines.Text())
			continue
		}
		out[id] = time.Unix(seconds, 0)
	}
	return out
}

// Used notes that an image is used now. A failure to write is logged: the next use
// writes everything again.
func (u *Uses) Used(id string) {
	if id == "" {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last[id] = time.Now()
	u.writeLocked()
}

// forget drops images that are gone.
func (u *Uses) forget(ids []string) {
	if len(ids) == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range ids {
		delete(u.last, id)
	}
	u.writeLocked()
}

// before lists the images whose last use is not after a time, oldest first.
func (u *Uses) before(limit time.Time) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []string
	for id, at := range u.last {
		if !at.After(limit) {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		if c := u.last[a].Compare(u.last[b]); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	return out
}

// usedSince tells whether an image was used after a time.
func (u *Uses) usedSince(id string, limit time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last[id].After(limit)
}

func (u *Uses) writeLocked() {
	var out bytes.Buffer
	for _, id := range slices.Sorted(maps.Keys(u.last)) {
		fmt.Fprintf(&out, "%s %d\n", id, u.last[id].Unix())
	}
	if err := atomicfile.Write(u.path, out.Bytes(), 0o600); err != nil {
		u.log.Error("write image uses", "error", err)
	}
}
