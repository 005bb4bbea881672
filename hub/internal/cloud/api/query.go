package api

import (
	"encoding/json"
	"errors"
	"strconv"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/query"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
)

// Rows of a page: what it has if the request does not say, and the most.
const (
	defaultRows = 100
	maxRows     = 1000
)

const continuation = "X-Ms-Continuation"

func (a *API) query(r *request) (answer, error) {
	var in struct {
		Query string `json:"query"`
	}
	if err := json.Unmarshal(r.body, &in); err != nil {
		return answer{}, refuse(registry.ArgumentInvalid, "the body is not {\"query\": \"...\"}")
	}
	rows := defaultRows
	if v := r.Header.Get("X-Ms-Max-Item-Count"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return answer{}, refuse(registry.ArgumentInvalid, "x-ms-max-item-count is not a positive number")
		}
		rows = min(n, maxRows)
	}
	q, err := query.Parse(in.Query)
	if err != nil {
		return answer{}, refuse(registry.ArgumentInvalid, "query: %v", err)
	}
	if q.Source() == query.Jobs {
		return unsupported("jobs")(a, r)
	}
	page, err := a.hub.Query(r.Context(), q, r.Header.Get(continuation), rows)
	if errors.Is(err, query.ErrToken) {
		return answer{}, refuse(registry.ArgumentInvalid, "%v", err)
	}
	if err != nil {
		return answer{}, err
	}
	kind := "Raw"
	if q.Whole() {
		kind = "Twin"
	}
	r.w.Header().Set("X-Ms-Item-Type", kind)
	if page.Next != "" { // clients take an empty one for a page that follows
		r.w.Header().Set(continuation, page.Next)
	}
	return answer{doc: page.Rows}, nil
}
