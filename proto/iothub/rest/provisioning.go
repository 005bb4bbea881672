package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// provisioningAPIVersion is that of the service side of device provisioning.
const provisioningAPIVersion = "2021-10-01"

// allEnrollments is the query that lists everything.
var allEnrollments = map[string]string{"query": "SELECT * FROM enrollments"}

func enrollmentPath(id string) string { return "/enrollments/" + url.PathEscape(id) }
func groupPath(id string) string      { return "/enrollmentGroups/" + url.PathEscape(id) }

func provisioning(method, path string) request {
	return request{method: method, path: path, version: provisioningAPIVersion}
}

// GetEnrollment reads an individual enrollment with its registration.
func (c *Client) GetEnrollment(ctx context.Context, id string) (Enrollment, error) {
	var out Enrollment
	err := c.do(ctx, provisioning(http.MethodGet, enrollmentPath(id)), &out)
	return out, err
}

// PutEnrollment creates (ifMatch MustNotExist) or updates an individual enrollment.
func (c *Client) PutEnrollment(ctx context.Context, e Enrollment, ifMatch string) (Enrollment, error) {
	var out Enrollment
	r := provisioning(http.MethodPut, enrollmentPath(e.RegistrationID))
	r.body, r.ifMatch = e, ifMatch
	err := c.do(ctx, r, &out)
	return out, err
}

// DeleteEnrollment removes an individual enrollment and its registration; the device
// stays. ifMatch "" removes whatever is there.
func (c *Client) DeleteEnrollment(ctx context.Context, id, ifMatch string) error {
	r := provisioning(http.MethodDelete, enrollmentPath(id))
	r.ifMatch = ifMatch
	return c.do(ctx, r, nil)
}

// ListEnrollments returns all individual enrollments.
func (c *Client) ListEnrollments(ctx context.Context) ([]Enrollment, error) {
	return pages[Enrollment](ctx, c, "/enrollments/query")
}

// GetEnrollmentGroup reads an enrollment group.
func (c *Client) GetEnrollmentGroup(ctx context.Context, id string) (EnrollmentGroup, error) {
	var out EnrollmentGroup
	err := c.do(ctx, provisioning(http.MethodGet, groupPath(id)), &out)
	return out, err
}

// PutEnrollmentGroup creates (ifMatch MustNotExist) or updates an enrollment group.
func (c *Client) PutEnrollmentGroup(ctx context.Context, g EnrollmentGroup, ifMatch string) (EnrollmentGroup, error) {
	var out EnrollmentGroup
	r := provisioning(http.MethodPut, groupPath(g.EnrollmentGroupID))
	r.body, r.ifMatch = g, ifMatch
	err := c.do(ctx, r, &out)
	return out, err
}

// DeleteEnrollmentGroup removes a group and its registrations; the devices stay.
// ifMatch "" removes whatever is there.
func (c *Client) DeleteEnrollmentGroup(ctx context.Context, id, ifMatch string) error {
	r := provisioning(http.MethodDelete, groupPath(id))
	r.ifMatch = ifMatch
	return c.do(ctx, r, nil)
}

// ListEnrollmentGroups returns all enrollment groups.
func (c *Client) ListEnrollmentGroups(ctx context.Context) ([]EnrollmentGroup, error) {
	return pages[EnrollmentGroup](ctx, c, "/enrollmentGroups/query")
}

// ListRegistrations returns the registrations of a group.
func (c *Client) ListRegistrations(ctx context.Context, group string) ([]RegistrationState, error) {
	return pages[RegistrationState](ctx, c, "/registrations/"+url.PathEscape(group)+"/query")
}

// GetRegistration reads how far the registration of a device got.
func (c *Client) GetRegistration(ctx context.Context, id string) (RegistrationState, error) {
	var out RegistrationState
	err := c.do(ctx, provisioning(http.MethodGet, "/registrations/"+url.PathEscape(id)), &out)
	return out, err
}

// DeleteRegistration makes the service forget that a device has registered; the
// device stays.
func (c *Client) DeleteRegistration(ctx context.Context, id string) error {
	return c.do(ctx, provisioning(http.MethodDelete, "/registrations/"+url.PathEscape(id)), nil)
}

// pages asks for a list until no continuation follows.
func pages[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	all := []T{}
	r := provisioning(http.MethodPost, path)
	r.body = allEnrollments
	r.header = http.Header{"X-Ms-Max-Item-Count": {strconv.Itoa(pageSize)}}
	for {
		var answer rawAnswer
		if err := c.do(ctx, r, &answer); err != nil {
			return nil, err
		}
		var page []T
		if err := json.Unmarshal(answer.body, &page); err != nil {
			return nil, fmt.Errorf("%s %s: decode answer: %w", r.method, r.path, err)
		}
		all = append(all, page...)
		next := answer.header.Get("X-Ms-Continuation")
		if next == "" {
			return all, nil
		}
		r.header.Set("X-Ms-Continuation", next)
	}
}

// pageSize is how many enrollments are asked for at once.
const pageSize = 500
