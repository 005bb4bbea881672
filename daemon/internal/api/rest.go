package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

// bodyTimeout is how long a client may take to send a body (spec security-daemon 2).
const bodyTimeout = 5 * time.Second

// versions are the api-versions of the original.
var versions = map[string]bool{
	"2018-06-28": true, "2019-01-30": true, "2019-10-22": true, "2019-11-05": true,
	"2020-07-07": true, "2021-12-07": true, "2022-08-03": true,
}

// gateway makes the part of a REST handler that translates single calls.
func gateway(more ...runtime.ServeMuxOption) *runtime.ServeMux {
	return runtime.NewServeMux(append([]runtime.ServeMuxOption{
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptSlash),
		runtime.WithRoutingErrorHandler(routingError),
		runtime.WithIncomingHeaderMatcher(noHeaders),
		runtime.WithOutgoingHeaderMatcher(noHeaders),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
	}, more...)...)
}

// noHeaders lets no header become metadata, nor the other way round.
func noHeaders(string) (string, bool) { return "", false }

// checkVersion refuses unknown api-versions, and hides what is newer than the
// version that the client speaks: since tells the first version of a path.
func checkVersion(since func(path []string) string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := r.URL.Query().Get("api-version")
		switch {
		case v == "":
			writeError(w, http.StatusBadRequest, "api-version not specified")
			return
		case !versions[v]:
			writeError(w, http.StatusBadRequest, "invalid api-version")
			return
		case v < since(segments(r)):
			notFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// segments are the parts of the path, still escaped.
func segments(r *http.Request) []string {
	return strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
}

// narrow leaves of a request what the gateway may see: of the query only the named
// members, of the headers only those of the body.
func narrow(next http.Handler, members ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query, left := r.URL.Query(), url.Values{}
		for _, m := range members {
			if query.Has(m) {
				left.Set(m, query.Get(m))
			}
		}
		r = r.Clone(r.Context())
		// The gateway takes the query for message fields.
		r.URL.RawQuery = left.Encode()
		// Always the escaped form, so that an id with "%" is not unescaped twice.
		r.URL.RawPath = r.URL.EscapedPath()
		keep := http.Header{}
		for _, name := range []string{"Content-Type", "Content-Length"} {
			if v := r.Header.Get(name); v != "" {
				keep.Set(name, v)
			}
		}
		r.Header = keep
		next.ServeHTTP(w, r)
	})
}

// trailingSlash accepts the named paths also with a slash behind.
func trailingSlash(next http.Handler, paths ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := strings.CutSuffix(r.URL.Path, "/"); ok && slices.Contains(paths, p) {
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = p, ""
		}
		next.ServeHTTP(w, r)
	})
}

// checkBody reads the body in time, where the request has one by has, and refuses
// what check refuses.
func checkBody(next http.Handler, timeout time.Duration, has func(*http.Request) bool, check func([]byte) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !has(r) {
			r.Body = http.NoBody
			next.ServeHTTP(w, r)
			return
		}
		if t := r.Header.Get("Content-Type"); t != "" {
			if media, _, err := mime.ParseMediaType(t); err != nil || media != "application/json" {
				writeError(w, http.StatusUnsupportedMediaType, "content type must be application/json")
				return
			}
		}
		body, code := readBody(w, r, timeout)
		if code != 0 {
			writeError(w, code, strings.ToLower(http.StatusText(code)))
			return
		}
		if err := check(body); err != nil {
			writeError(w, http.StatusUnprocessableEntity, err.Error())
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// buffered gives every answer a Content-Length: old clients want one, and answers
// are small.
func buffered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &bufferedWriter{header: w.Header(), code: http.StatusOK}
		next.ServeHTTP(b, r)
		if b.code == http.StatusNoContent {
			w.Header().Del("Content-Type")
			w.WriteHeader(b.code)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(b.body.Len()))
		w.WriteHeader(b.code)
		// A client that is gone needs no answer.
		_, _ = w.Write(b.body.Bytes())
	})
}

type bufferedWriter struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (b *bufferedWriter) Header() http.Header         { return b.header }
func (b *bufferedWriter) WriteHeader(code int)        { b.code = code }
func (b *bufferedWriter) Write(p []byte) (int, error) { return b.body.Write(p) }

// readBody returns the body, or the status of what is wrong with it.
func readBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) ([]byte, int) {
	ctl := http.NewResponseController(w)
	// Not every writer of a test has deadlines.
	if err := ctl.SetReadDeadline(time.Now().Add(timeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, http.StatusInternalServerError
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, http.StatusRequestEntityTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, http.StatusRequestTimeout
	case err != nil:
		return nil, http.StatusBadRequest
	}
	if err := ctl.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, http.StatusInternalServerError
	}
	return body, 0
}

// errNoObject refuses a body.
var errNoObject = errors.New("malformed JSON: want an object")

// object reads the members of a JSON object.
func object(body []byte) (map[string]json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return nil, errNoObject
	}
	return members, nil
}

// marshaler writes protobuf JSON without the random spaces of the library.
type marshaler struct{ runtime.JSONPb }

func newMarshaler() *marshaler {
	return &marshaler{runtime.JSONPb{
		MarshalOptions:   protojson.MarshalOptions{EmitDefaultValues: true},
		UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
	}}
}

// ContentType implements runtime.Marshaler.
func (*marshaler) ContentType(any) string { return "application/json" }

// Marshal implements runtime.Marshaler.
func (m *marshaler) Marshal(v any) ([]byte, error) {
	loose, err := m.JSONPb.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, loose); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// httpStatus is the one table from gRPC codes to HTTP.
func httpStatus(c codes.Code) int {
	switch c {
	case codes.OK:
		return http.StatusOK
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.PermissionDenied, codes.Unauthenticated:
		return http.StatusForbidden
	case codes.NotFound, codes.Unimplemented:
		return http.StatusNotFound
	case codes.AlreadyExists:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.DeadlineExceeded:
		return http.StatusRequestTimeout
	}
	return http.StatusInternalServerError
}

func routingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, code int) {
	if code == http.StatusMethodNotAllowed {
		writeError(w, http.StatusBadRequest, "method not allowed")
		return
	}
	if code == http.StatusBadRequest {
		writeError(w, code, "malformed path")
		return
	}
	writeError(w, http.StatusNotFound, "not found")
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	writeError(w, http.StatusNotFound, "not found")
}

// writeError answers {"message": text}.
func writeError(w http.ResponseWriter, code int, text string) {
	body, err := json.Marshal(struct {
		Message string `json:"message"`
	}{text})
	if err != nil {
		code, body = http.StatusInternalServerError, []byte(`{"message":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A client that is gone needs no answer.
	_, _ = w.Write(body)
}
