package api

import (
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/httpjson"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Options configure New.
type Options struct {
	// WebSocket serves "/$iothub/websocket", and "/$servicebus/websocket" of clients of
	// event hubs; nil means there is none.
	WebSocket http.Handler
	// Now is the clock; nil means time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// API is the http.Handler of the hub.
type API struct {
	hub    *cloud.Hub
	ws     http.Handler
	now    func() time.Time
	log    *slog.Logger
	routes []route
}

// New returns the API of a hub.
func New(h *cloud.Hub, o Options) *API {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &API{hub: h, ws: o.WebSocket, now: o.Now, log: o.Logger}
	a.routes = a.table()
	return a
}

const (
	// maxBody holds a manifest of 50 modules with full twins.
	maxBody     = 4 << 20
	bodyTimeout = 30 * time.Second
)

// request is one authenticated and authorised request.
type request struct {
	*http.Request
	w      http.ResponseWriter
	id     iothub.Identity // {d} and {m} of the path
	token  string          // {t} of the path
	caller access.Caller   // of a route for services
	grant  access.Grant    // of a route for devices
	body   []byte
}

// answer is what a handler gives back; nil means 204.
type answer struct {
	doc  any
	etag string
	// sent is set by handlers that have written the response themselves.
	sent bool
}

var versionPattern = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}(-[A-Za-z]+)?$`)

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := httpjson.Segments(r.URL)
	if a.ws != nil && isWebSocket(path) {
		a.ws.ServeHTTP(w, r)
		return
	}
	for _, name := range []string{"Request-Id", "X-Ms-Client-Request-Id"} {
		if v := r.Header.Get(name); v != "" {
			w.Header().Set("X-Ms-Request-Id", v)
		}
	}
	// Before anything else: a probe of the edge runtime depends on it.
	if !versionPattern.MatchString(r.URL.Query().Get("api-version")) {
		a.fail(w, r, refuse(invalidVersion, "api-version is missing or is not a date"))
		return
	}
	if !ok {
		a.fail(w, r, refuse(notFound, "the path is not valid"))
		return
	}
	if err := a.serve(w, r, path); err != nil {
		a.fail(w, r, err)
	}
}

func isWebSocket(path []string) bool {
	return len(path) == 2 && strings.EqualFold(path[1], "websocket") &&
		(strings.EqualFold(path[0], "$iothub") || strings.EqualFold(path[0], "$servicebus"))
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, path []string) error {
	req := &request{Request: r, w: w}
	rt, err := a.find(req, path)
	if err != nil {
		return err
	}
	if err := a.authorise(rt, req); err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetReadDeadline(a.now().Add(bodyTimeout)) // not all writers can
	if req.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	ans, err := rt.handle(a, req)
	switch {
	case err != nil:
		return err
	case ans.sent:
	case ans.doc == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		if ans.etag != "" {
			w.Header().Set("ETag", `"`+ans.etag+`"`)
		}
		httpjson.Write(w, http.StatusOK, ans.doc)
	}
	return nil
}

// authorise checks the credentials of a request and whether they are enough.
func (a *API) authorise(rt route, r *request) (err error) {
	var peer []*x509.Certificate
	if r.TLS != nil {
		peer = r.TLS.PeerCertificates
	}
	if rt.allow == nil {
		r.grant, err = a.hub.Access().Connect(head.Login{Identity: r.id, Protocol: "http",
			Token: r.Header.Get("Authorization"), Peer: peer})
		return err
	}
	if r.caller, err = a.hub.Access().Request(r.Header.Get("Authorization"), peer, r.id); err != nil {
		return err
	}
	if !rt.allow(a, r.caller, r.id) {
		a.log.Info("request not allowed", "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr,
			"caller", r.caller.Identity, "rights", r.caller.Rights)
		return refuse(unauthorizedAccess, "the credentials do not allow this")
	}
	return nil
}
