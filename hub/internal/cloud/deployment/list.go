package deployment

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// List holds the configurations of a hub. All methods may be called concurrently.
type List struct {
	bucket  store.Bucket
	now     func() time.Time
	changed func()

	write sync.Mutex // held by one writer, over the fsync
	mu    sync.RWMutex
	all   map[string]*configuration
}

// Open reads the configurations in s. changed is called after each write.
func Open(s *store.Store, now func() time.Time, changed func()) (*List, error) {
	l := &List{bucket: s.Bucket("cloud.configurations"), now: now, changed: changed, all: map[string]*configuration{}}
	err := l.bucket.Scan("", func(id string, value []byte) error {
		var doc rest.Configuration
		err := json.Unmarshal(value, &doc)
		if err == nil {
			l.all[id], err = understand(doc)
		}
		if err != nil {
			return fmt.Errorf("configuration %s: %w", id, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("configurations: %w", err)
	}
	return l, nil
}

func (l *List) find(id string) (*configuration, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if c, ok := l.all[id]; ok {
		return c, nil
	}
	return nil, refuse(NotFound, "there is no configuration of this id")
}

// Get returns a configuration without the results of its metrics. Errors:
// *registry.Error.
func (l *List) Get(id string) (rest.Configuration, error) {
	c, err := l.find(id)
	if err != nil {
		return rest.Configuration{}, err
	}
	return c.document(), nil
}

// All returns the first top configurations by id, without the results of their
// metrics.
func (l *List) All(top int) []rest.Configuration {
	l.mu.RLock()
	defer l.mu.RUnlock()
	ids := slices.Sorted(maps.Keys(l.all))
	out := []rest.Configuration{}
	for _, id := range ids[:min(top, len(ids))] {
		out = append(out, l.all[id].document())
	}
	return out
}

// Empty tells whether there is no configuration.
func (l *List) Empty() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.all) == 0
}

// Put creates or, as m says, updates a configuration; its content cannot change. body
// is a rest.Configuration. Errors: *registry.Error.
func (l *List) Put(ctx context.Context, id string, body []byte, m registry.Match) (rest.Configuration, error) {
	in, err := parseChange(id, body)
	if err != nil {
		return rest.Configuration{}, err
	}
	l.write.Lock()
	c, err := l.put(ctx, in, m)
	l.write.Unlock()
	if err != nil {
		return rest.Configuration{}, err
	}
	l.changed()
	return c.document(), nil
}

func (l *List) put(ctx context.Context, in change, m registry.Match) (*configuration, error) {
	old, err := l.find(in.doc.ID)
	exists := err == nil
	switch {
	case exists && m.IsAbsent():
		return nil, refuse(Exists, "there is a configuration of this id already")
	case !exists && !m.IsAbsent():
		return nil, err
	case exists && !m.Allows(old.doc.Etag):
		return nil, refuse(registry.PreconditionFailed, "the configuration has another etag")
	case exists && in.hasContent && !sameContent(in.doc.Content, old.doc.Content):
		return nil, refuse(ContentFixed, "the content of a configuration cannot be changed, make another one")
	case !exists && !in.hasContent:
		return nil, badContent("the content is missing")
	case !exists && len(l.All(Max)) >= Max:
		return nil, refuse(TooMany, "there are %d configurations already", Max)
	}
	now := rest.Time{Time: l.now().UTC()}
	in.doc.Created, in.doc.Updated, in.doc.Etag = now, now, etag(1)
	if exists {
		in.doc.Content, in.doc.Created, in.doc.Etag = old.doc.Content, old.doc.Created, nextEtag(old.doc.Etag)
	}
	c, err := understand(in.doc)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(c.doc)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	if len(raw) > store.MaxValue {
		return nil, refuse(registry.ArgumentInvalid, "the configuration has %d bytes, at most %d", len(raw), store.MaxValue)
	}
	// Not the caller's context: the end of the write must be known.
	if err := l.bucket.Put(context.WithoutCancel(ctx), c.doc.ID, raw); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[c.doc.ID] = c
	return c, nil
}

// etag is a counter in the form of IoT Hub.
func etag(n int) string { return base64.StdEncoding.EncodeToString([]byte(strconv.Itoa(n))) }

func nextEtag(old string) string {
	raw, _ := base64.StdEncoding.DecodeString(old) // it is ours
	n, _ := strconv.Atoi(string(raw))
	return etag(n + 1)
}

// Delete removes a configuration. Errors: *registry.Error.
func (l *List) Delete(ctx context.Context, id string, m registry.Match) error {
	l.write.Lock()
	err := l.delete(ctx, id, m)
	l.write.Unlock()
	if err != nil {
		return err
	}
	l.changed()
	return nil
}

func (l *List) delete(ctx context.Context, id string, m registry.Match) error {
	old, err := l.find(id)
	if err != nil {
		return err
	}
	if !m.Allows(old.doc.Etag) {
		return refuse(registry.PreconditionFailed, "the configuration has another etag")
	}
	if err := l.bucket.Delete(context.WithoutCancel(ctx), id); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, id)
	return nil
}
