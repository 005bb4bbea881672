package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/query"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Query returns a page of the rows of a query, at most so many; token is that of the
// page before, or empty. Each twin is read once and as it is at that moment. There are
// no jobs. Errors: query.ErrToken.
func (h *Hub) Query(ctx context.Context, q *query.Query, token string, most int) (query.Page, error) {
	return q.Page(func(after string) iter.Seq2[query.Doc, error] {
		return h.twinsAfter(ctx, q.Source(), after)
	}, token, most)
}

// twinsAfter returns the twins of devices or of modules, by device and module id. The
// keys are those of the identities, whose order is not that of these texts.
func (h *Hub) twinsAfter(ctx context.Context, c query.Collection, after string) iter.Seq2[query.Doc, error] {
	return func(yield func(query.Doc, error) bool) {
		from, err := iothub.ParseIdentity(after)
		if after != "" && err != nil {
			yield(query.Doc{}, query.ErrToken)
			return
		}
		ids := h.registry.IDs()
		first, _ := slices.BinarySearch(ids, from.Device)
		for _, device := range ids[first:] {
			for _, id := range h.identities(device, c) {
				if device == from.Device && id.Module <= from.Module {
					continue
				}
				doc, err := h.twinDocument(ctx, id)
				var gone *registry.Error
				if errors.As(err, &gone) {
					continue // deleted since the ids were read
				}
				if !yield(doc, err) {
					return
				}
			}
		}
	}
}

// identities are those of a device that a collection has, by id.
func (h *Hub) identities(device string, c query.Collection) []iothub.Identity {
	switch c {
	case query.Devices:
		return []iothub.Identity{iothub.DeviceIdentity(device)}
	case query.Jobs:
		return nil
	}
	modules, err := h.registry.Modules(device)
	if err != nil {
		return nil // deleted meanwhile
	}
	list := make([]iothub.Identity, len(modules))
	for i, m := range modules {
		list[i] = iothub.ModuleIdentity(device, m.ModuleID)
	}
	return list
}

func (h *Hub) twinDocument(ctx context.Context, id iothub.Identity) (query.Doc, error) {
	if err := ctx.Err(); err != nil {
		return query.Doc{}, err
	}
	t, err := h.Twin(id)
	if err != nil {
		return query.Doc{}, err
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return query.Doc{}, fmt.Errorf("twin of %s: %w", id, err)
	}
	doc := query.Doc{Key: id.String()}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&doc.Body); err != nil {
		return query.Doc{}, fmt.Errorf("twin of %s: %w", id, err)
	}
	return doc, nil
}
