package dps

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/httpjson"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// maxBulk bounds the enrollments of one bulk request, maxPage those of one answer.
const maxBulk, maxPage = 10, 1000

// operation is one request of an operator, allowed already.
type operation struct {
	*http.Request
	w    http.ResponseWriter
	body []byte
	// kind is the first word of the path in lower case, id the second as it is.
	kind, id string
}

func (o *operation) match() registry.Match { return registry.ParseMatch(o.Header.Get("If-Match")) }

// key is that of the enrollment which the path names.
func (o *operation) key() string {
	if o.kind == "enrollmentgroups" {
		return groupKey(o.id)
	}
	return individualKey(o.id)
}

// serveOperator answers a service client (spec iothub-service 17).
func (d *Service) serveOperator(w http.ResponseWriter, r *http.Request, path []string, body []byte) error {
	right := access.RegistryWrite
	o := &operation{Request: r, w: w, body: body, kind: strings.ToLower(path[0])}
	if len(path) > 1 {
		o.id = path[1]
	}
	last := strings.ToLower(path[len(path)-1])
	reads := r.Method == http.MethodGet || last == "query" && len(path) > 1
	if reads {
		right |= access.RegistryRead
	}
	caller, err := d.o.Hub.Access().Request(r.Header.Get("Authorization"), nil, iothub.Identity{})
	if err != nil {
		return err
	}
	if !caller.Rights.Has(right) {
		d.log.Info("request not allowed", "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr, "rights", caller.Rights)
		return errUnauthorized()
	}
	handle, err := d.route(o, path)
	if err != nil {
		return err
	}
	return handle(o)
}

// route finds what a path and verb ask for.
func (d *Service) route(o *operation, path []string) (func(*operation) error, error) {
	var verbs map[string]func(*operation) error
	word := ""
	if len(path) == 3 {
		word = strings.ToLower(path[2])
	}
	registrations := o.kind == "registrations"
	switch {
	case len(path) == 1 && o.kind == "enrollments":
		verbs = map[string]func(*operation) error{http.MethodPost: d.bulk}
	case len(path) == 2 && !registrations && strings.EqualFold(o.id, "query"):
		verbs = map[string]func(*operation) error{http.MethodPost: d.queryEnrollments}
	case len(path) == 2 && registrations:
		verbs = map[string]func(*operation) error{http.MethodGet: d.getRegistration, http.MethodDelete: d.deleteRegistration}
	case len(path) == 2:
		verbs = map[string]func(*operation) error{http.MethodGet: d.getEnrollment, http.MethodPut: d.putEnrollment,
			http.MethodDelete: d.deleteEnrollment}
	case word == "attestationmechanism" && !registrations:
		verbs = map[string]func(*operation) error{http.MethodPost: d.attestationMechanism}
	case word == "query" && registrations:
		verbs = map[string]func(*operation) error{http.MethodPost: d.queryRegistrations}
	default:
		return nil, refuse(codeNotFound, "the path is unknown")
	}
	if handle, ok := verbs[o.Method]; ok {
		return handle, nil
	}
	return nil, errMethod()
}

func (d *Service) getEnrollment(o *operation) error {
	e, ok := d.find(o.key())
	if !ok {
		return errNoEnrollment()
	}
	return d.answer(o, e)
}

// answer writes one enrollment, an individual one with its registration.
func (d *Service) answer(o *operation, e *enrollment) error {
	doc, err := d.filled(e)
	if err != nil {
		return err
	}
	o.w.Header().Set("ETag", `"`+e.terms.Etag+`"`)
	httpjson.Write(o.w, http.StatusOK, doc)
	return nil
}

func (d *Service) filled(e *enrollment) (any, error) {
	if e.group {
		return e.document(), nil
	}
	doc := e.individual()
	r, err := d.load(e.id)
	if err != nil {
		return nil, err
	}
	if r != nil && r.Enrollment == e.key() {
		state := d.shown(r)
		doc.RegistrationState = &state
	}
	return doc, nil
}

func (d *Service) putEnrollment(o *operation) error {
	parse := func(old *enrollment) (*enrollment, error) { return parseEnrollment(o.id, o.body, old) }
	if o.kind == "enrollmentgroups" {
		parse = func(old *enrollment) (*enrollment, error) { return parseGroup(o.id, o.body, old) }
	}
	e, err := d.put(o.Context(), o.key(), o.match(), parse)
	if err != nil {
		return err
	}
	return d.answer(o, e)
}

func (d *Service) deleteEnrollment(o *operation) error {
	if err := d.remove(o.Context(), o.key(), o.match()); err != nil {
		return err
	}
	o.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (d *Service) attestationMechanism(o *operation) error {
	e, ok := d.find(o.key())
	if !ok {
		return errNoEnrollment()
	}
	httpjson.Write(o.w, http.StatusOK, e.terms.Attestation)
	return nil
}

// bulk creates, updates or deletes several individual enrollments. Those that can be
// are, the others are told of.
func (d *Service) bulk(o *operation) error {
	var in struct {
		Mode        string            `json:"mode"`
		Enrollments []json.RawMessage `json:"enrollments"`
	}
	if err := json.Unmarshal(o.body, &in); err != nil || len(in.Enrollments) == 0 || len(in.Enrollments) > maxBulk {
		return invalid("a bulk request has a mode and 1 to %d enrollments", maxBulk)
	}
	type failure struct {
		RegistrationID string `json:"registrationId"`
		ErrorCode      int    `json:"errorCode"`
		ErrorStatus    string `json:"errorStatus"`
	}
	errs := []failure{}
	for _, raw := range in.Enrollments {
		var doc rest.Enrollment
		err := json.Unmarshal(raw, &doc)
		if err != nil {
			err = invalid("not an enrollment")
		} else {
			err = d.bulkOne(o, strings.ToLower(in.Mode), doc, raw)
		}
		if err != nil {
			e := d.judge(o.Context(), err, "enrollment", doc.RegistrationID)
			errs = append(errs, failure{doc.RegistrationID, e.Code, e.Text})
		}
	}
	httpjson.Write(o.w, http.StatusOK, map[string]any{"isSuccessful": len(errs) == 0, "errors": errs})
	return nil
}

func (d *Service) bulkOne(o *operation, mode string, doc rest.Enrollment, raw []byte) error {
	match := registry.Any
	switch mode {
	case "create":
		match = registry.Absent
	case "updateifmatchetag":
		if doc.Etag == "" {
			return invalid("no etag")
		}
		match = registry.ParseMatch(doc.Etag)
	case "update", "delete":
	default:
		return invalid("mode %.40q is unknown", mode)
	}
	key := individualKey(doc.RegistrationID)
	if mode == "delete" {
		return d.remove(o.Context(), key, match)
	}
	_, err := d.put(o.Context(), key, match, func(old *enrollment) (*enrollment, error) {
		return parseEnrollment(doc.RegistrationID, raw, old)
	})
	return err
}

// queryEnrollments lists individual enrollments or groups.
func (d *Service) queryEnrollments(o *operation) error {
	if err := checkQuery(o.body); err != nil {
		return err
	}
	prefix, kind := individualKey(""), "Enrollment"
	if o.kind == "enrollmentgroups" {
		prefix, kind = groupKey(""), "EnrollmentGroup"
	}
	var docs []any
	for _, e := range d.list(prefix) {
		doc, err := d.filled(e)
		if err != nil {
			return err
		}
		docs = append(docs, doc)
	}
	return page(o, kind, docs)
}

// queryRegistrations lists the registrations of a group.
func (d *Service) queryRegistrations(o *operation) error {
	if _, ok := d.find(groupKey(o.id)); !ok {
		return errNoEnrollment()
	}
	var docs []any
	err := d.scanRegistrations(func(_ string, r *record) {
		if r.Enrollment == groupKey(o.id) {
			docs = append(docs, d.shown(r))
		}
	})
	if err != nil {
		return err
	}
	return page(o, "DeviceRegistration", docs)
}

// checkQuery takes the one query that all tools send.
func checkQuery(body []byte) error {
	var in struct {
		Query string `json:"query"`
	}
	if len(body) > 0 && json.Unmarshal(body, &in) != nil {
		return invalid("the body is not a query")
	}
	words := strings.Fields(strings.ToLower(in.Query))
	if len(words) != 0 && (len(words) != 4 || !slices.Equal(words[:3], []string{"select", "*", "from"})) {
		return invalid("the query is not SELECT * FROM something")
	}
	return nil
}

// page writes a part of a list; the continuation is the number of what was sent.
func page(o *operation, kind string, docs []any) error {
	from, size := 0, maxPage
	if v := o.Header.Get("X-Ms-Max-Item-Count"); v != "" && v != "-1" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return invalid("x-ms-max-item-count is not a positive number")
		}
		size = min(n, maxPage)
	}
	if v := o.Header.Get("X-Ms-Continuation"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return invalid("x-ms-continuation is none of this service")
		}
		from = min(n, len(docs))
	}
	to := min(from+size, len(docs))
	if to < len(docs) {
		o.w.Header().Set("X-Ms-Continuation", strconv.Itoa(to))
	}
	o.w.Header().Set("X-Ms-Item-Type", kind)
	httpjson.Write(o.w, http.StatusOK, append([]any{}, docs[from:to]...))
	return nil
}

func (d *Service) getRegistration(o *operation) error {
	r, err := d.load(o.id)
	if err != nil {
		return err
	}
	if r == nil {
		return refuse(codeNoRegistration, notRegisteredFormat, "of this id")
	}
	state := d.shown(r)
	o.w.Header().Set("ETag", `"`+state.Etag+`"`)
	httpjson.Write(o.w, http.StatusOK, state)
	return nil
}

// deleteRegistration makes the service forget that a device has registered; the
// device stays in the hub.
func (d *Service) deleteRegistration(o *operation) error {
	defer d.lock(o.id)()
	r, err := d.load(o.id)
	switch {
	case err != nil:
		return err
	case r == nil:
		return refuse(codeNoRegistration, notRegisteredFormat, "of this id")
	case !o.match().Allows(r.State.Etag):
		return refuse(codePrecondition, "the registration has another etag")
	}
	if err := d.registrations.Delete(o.Context(), strings.ToLower(o.id)); err != nil {
		return err
	}
	o.w.WriteHeader(http.StatusNoContent)
	return nil
}
