package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// bodyTimeout is how long a client may take to send a body (spec security-daemon 2).
const bodyTimeout = 5 * time.Second

// versions are the api-versions of the original; every workload route exists in
// all of them.
var versions = map[string]bool{
	"2018-06-28": true, "2019-01-30": true, "2019-10-22": true, "2019-11-05": true,
	"2020-07-07": true, "2021-12-07": true, "2022-08-03": true,
}

// WorkloadREST makes the handler of the workload API's REST paths, as the
// original serves them (spec security-daemon 2, 3, 14.3).
func WorkloadREST(ctx context.Context, conn grpc.ClientConnInterface) (http.Handler, error) {
	return workloadREST(ctx, conn, bodyTimeout)
}

func workloadREST(ctx context.Context, conn grpc.ClientConnInterface, timeout time.Duration) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newMarshaler()),
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptSlash),
		runtime.WithErrorHandler(writeStatus),
		runtime.WithRoutingErrorHandler(routingError),
		runtime.WithForwardResponseOption(created),
		runtime.WithIncomingHeaderMatcher(noHeaders),
		runtime.WithOutgoingHeaderMatcher(noHeaders),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
	)
	if err := workloadv1.RegisterWorkloadHandlerClient(ctx, mux, workloadv1.NewWorkloadClient(conn)); err != nil {
		return nil, err
	}
	return checkVersion(checkBody(buffered(mux), timeout)), nil
}

// noHeaders lets no header become metadata, nor the other way round.
func noHeaders(string) (string, bool) { return "", false }

// created sets the status of calls that make something.
func created(_ context.Context, w http.ResponseWriter, m proto.Message) error {
	if _, ok := m.(*workloadv1.Certificate); ok {
		w.WriteHeader(http.StatusCreated)
	}
	return nil
}

func checkVersion(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch v := r.URL.Query().Get("api-version"); {
		case v == "":
			writeError(w, http.StatusBadRequest, "api-version not specified")
			return
		case !versions[v]:
			writeError(w, http.StatusBadRequest, "invalid api-version")
			return
		}
		r = r.Clone(r.Context())
		// The gateway takes what is left of the query for message fields.
		r.URL.RawQuery = ""
		if r.URL.Path == "/modules/" {
			r.URL.Path = "/modules"
		}
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

// checkBody reads the body in time and refuses what is no JSON object.
func checkBody(next http.Handler, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost && r.Method != http.MethodPut {
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
		if err := checkJSON(body); err != nil {
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

// checkJSON accepts an object whose members, where the API knows them, are
// strings: all members of all workload requests are. An empty body is an empty
// object.
func checkJSON(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return errors.New("malformed JSON: want an object")
	}
	for name, value := range members {
		if known[name] && value[0] != '"' && string(value) != "null" {
			return fmt.Errorf("malformed JSON: %s must be a string", name)
		}
	}
	return nil
}

// known are the members of the workload requests.
var known = map[string]bool{
	"keyId": true, "algo": true, "data": true, "plaintext": true, "ciphertext": true,
	"initializationVector": true, "commonName": true, "expiration": true,
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

func writeStatus(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	st := status.Convert(err)
	message := st.Message()
	if st.Code() == codes.InvalidArgument && strings.HasPrefix(message, "proto:") {
		// The library's text varies on purpose; the only fault left is bad base64.
		message = "invalid parameter: not base64"
	}
	writeError(w, httpStatus(st.Code()), message)
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
