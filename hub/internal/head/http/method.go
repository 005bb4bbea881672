package http

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// callerHeader names the module that calls.
const callerHeader = "x-ms-edge-moduleId"

// Bounds of a method call (spec edgehub-core 10.2), in seconds.
const (
	defaultResponse = 30
	minResponse     = 5
	maxTimeout      = 300
	maxMethodName   = 100
)

// maxBody leaves room for the members beside the payload.
const maxBody = iothub.MaxMethodPayload + 4<<10

// problem is an answer that is no success.
type problem struct {
	status int
	text   string
}

func (p *problem) Error() string { return p.text }

func bad(format string, args ...any) error {
	return &problem{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// route answers everything but WebSockets.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	path, ok := segments(r.URL)
	switch {
	case !ok:
		s.fail(w, r, bad("the path is not valid"))
	case len(path) == 1 && path[0] == "metrics" && s.o.Metrics != nil:
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s.notAllowed(w, r, "GET, HEAD")
			return
		}
		s.o.Metrics.ServeHTTP(w, r)
	case len(path) > 0 && strings.EqualFold(path[0], "twins"):
		target, ok := methodTarget(path)
		if !ok {
			s.fail(w, r, &problem{http.StatusNotFound, "there is nothing here"})
			return
		}
		if r.Method != http.MethodPost {
			s.notAllowed(w, r, http.MethodPost)
			return
		}
		s.invoke(w, r, target)
	case len(path) > 0 && strings.EqualFold(path[0], "devices"):
		s.children(w, s.behindProxy(r), path)
	default:
		s.fail(w, r, &problem{http.StatusNotFound, "there is nothing here"})
	}
}

// segments splits a path and decodes its parts.
func segments(u *url.URL) (parts []string, ok bool) {
	for part := range strings.SplitSeq(strings.Trim(u.EscapedPath(), "/"), "/") {
		text, err := url.PathUnescape(part)
		if err != nil {
			return nil, false
		}
		parts = append(parts, text)
	}
	return parts, true
}

// methodTarget reads twins/{d}/methods and twins/{d}/modules/{m}/methods.
func methodTarget(path []string) (iothub.Identity, bool) {
	n := len(path)
	if n != 3 && n != 5 || !strings.EqualFold(path[n-1], "methods") || n == 5 && !strings.EqualFold(path[2], "modules") {
		return iothub.Identity{}, false
	}
	id := iothub.DeviceIdentity(path[1])
	if n == 5 {
		id.Module = path[3]
		if iothub.CheckID(id.Module) != nil {
			return id, false
		}
	}
	return id, iothub.CheckID(id.Device) == nil
}

func (s *Server) invoke(w http.ResponseWriter, r *http.Request, target iothub.Identity) {
	caller, err := s.caller(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	call, err := readCall(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	default:
		s.fail(w, r, &problem{http.StatusTooManyRequests, "too many method calls are under way"})
		return
	}
	answer, err := s.o.Backend.Invoke(r.Context(), caller, target, call.request, call.connect, call.response)
	switch {
	case errors.Is(err, head.ErrNotConnected):
		err = &problem{http.StatusNotFound, target.String() + " is not connected to this hub"}
	case errors.Is(err, head.ErrNoAnswer):
		err = &problem{http.StatusGatewayTimeout, target.String() + " did not answer in time"}
	case err != nil: // the caller has gone, or the hub is going
		err = &problem{http.StatusServiceUnavailable, "the call was broken off"}
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if len(answer.Payload) == 0 {
		answer.Payload = json.RawMessage("null")
	}
	s.write(w, http.StatusOK, struct {
		Status  int             `json:"status"`
		Payload json.RawMessage `json:"payload"`
	}{answer.Status, answer.Payload})
}

// caller finds out who calls: a module of this device, which proves it.
func (s *Server) caller(r *http.Request) (iothub.Identity, error) {
	id, err := iothub.ParseIdentity(r.Header.Get(callerHeader))
	if err != nil || !id.IsModule() {
		return id, bad("header %s is missing or not of the form device/module", callerHeader)
	}
	refused := &problem{http.StatusUnauthorized, "the caller is not a module of this device, or cannot prove it"}
	if id.Device != s.o.Backend.Device() {
		return id, refused
	}
	switch err := s.authenticate(r, id); {
	case err == nil:
		return id, nil
	case errors.Is(err, head.ErrUnavailable):
		s.o.Logger.Info("http caller cannot be checked now", "identity", id.String(), "error", err)
		return id, &problem{http.StatusServiceUnavailable, "the caller cannot be checked now"}
	default:
		s.o.Logger.Info("http caller refused", "identity", id.String(), "remote", r.RemoteAddr, "error", err)
		return id, refused
	}
}

// address is a remote address as net/http gives it.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// call is a method call as its body says.
type call struct {
	request           iothub.MethodRequest
	connect, response time.Duration
}

func readCall(w http.ResponseWriter, r *http.Request) (call, error) {
	body, err := readBody(w, r)
	if err != nil {
		return call{}, err
	}
	return parseCall(body)
}

// readBody reads a body of at most maxBody, which must come in time. After that the
// caller may wait for minutes without saying more.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, bad("the body is too large or did not come")
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, err
	}
	return body, nil
}

// parseCall reads the body of a call. Errors are problems with status 400.
func parseCall(body []byte) (call, error) {
	var in struct {
		Name     string          `json:"methodName"`
		Payload  json.RawMessage `json:"payload"`
		Response *int            `json:"responseTimeoutInSeconds"`
		Connect  int             `json:"connectTimeoutInSeconds"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return call{}, bad("the body is not a method call")
	}
	response := defaultResponse
	if in.Response != nil {
		response = *in.Response
	}
	switch {
	case in.Name == "" || utf8.RuneCountInString(in.Name) > maxMethodName:
		return call{}, bad("methodName must have 1 to %d characters", maxMethodName)
	case strings.ContainsFunc(in.Name, forbidden):
		return call{}, bad("methodName holds a forbidden character")
	case len(in.Payload) > iothub.MaxMethodPayload:
		return call{}, bad("payload is larger than %d bytes", iothub.MaxMethodPayload)
	case response < minResponse || response > maxTimeout:
		return call{}, bad("responseTimeoutInSeconds must be from %d to %d", minResponse, maxTimeout)
	case in.Connect < 0 || in.Connect > maxTimeout:
		return call{}, bad("connectTimeoutInSeconds must be from 0 to %d", maxTimeout)
	}
	return call{
		request: iothub.MethodRequest{Name: in.Name, Payload: in.Payload},
		connect: time.Duration(in.Connect) * time.Second, response: time.Duration(response) * time.Second,
	}, nil
}

// forbidden are characters that cannot be part of a topic or an address.
func forbidden(r rune) bool {
	return r == unicode.ReplacementChar || unicode.IsControl(r) || strings.ContainsRune(" $()<>@,;:\\\"/[]?={}#+", r)
}

func (s *Server) notAllowed(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	s.fail(w, r, &problem{http.StatusMethodNotAllowed, "use " + allow})
}

// fail answers with a problem.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem
	if !errors.As(err, &p) {
		s.o.Logger.Error("http request failed", "path", r.URL.Path, "error", err)
		p = &problem{http.StatusInternalServerError, "internal error"}
	}
	s.write(w, p.status, map[string]string{"message": p.text})
}

// write answers with a JSON document.
func (s *Server) write(w http.ResponseWriter, status int, doc any) {
	raw, err := json.Marshal(doc)
	if err != nil {
		s.o.Logger.Error("http answer", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	if _, err := w.Write(raw); err != nil {
		s.o.Logger.Debug("http answer not written", "error", err)
	}
}
