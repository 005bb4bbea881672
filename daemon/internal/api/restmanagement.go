package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// ManagementREST makes the handler of the management API's REST paths, as the
// original serves them (spec security-daemon 2, 4, 14.3).
func ManagementREST(ctx context.Context, local Local) (http.Handler, error) {
	return managementREST(ctx, local, bodyTimeout)
}

func managementREST(ctx context.Context, local Local, timeout time.Duration) (http.Handler, error) {
	mux := gateway(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &systemMarshaler{newMarshaler()}),
		runtime.WithErrorHandler(managementStatus),
		runtime.WithForwardResponseOption(managementCode),
	)
	for _, register := range []func() error{
		func() error {
			return managementv1.RegisterModulesHandlerClient(ctx, mux, managementv1.NewModulesClient(local))
		},
		func() error {
			return managementv1.RegisterIdentitiesHandlerClient(ctx, mux, managementv1.NewIdentitiesClient(local))
		},
		func() error {
			return managementv1.RegisterSystemHandlerClient(ctx, mux, managementv1.NewSystemClient(local))
		},
	} {
		if err := register(); err != nil {
			return nil, err
		}
	}
	single := checkBody(buffered(mux), timeout, hasManagementBody, managementBody)
	calls, updates := narrow(single), narrow(single, "start")
	logs := &logsHandler{local: local}
	route := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := segments(r)
		switch {
		case len(path) == 3 && path[0] == "modules" && path[2] == "logs":
			logs.ServeHTTP(w, r)
		case r.Method == http.MethodPut && path[0] == "modules":
			updates.ServeHTTP(w, r)
		default:
			calls.ServeHTTP(w, r)
		}
	})
	return checkVersion(managementSince, trailingSlash(route, "/modules", "/identities")), nil
}

// managementSince is the first version of a path (spec security-daemon 4).
func managementSince(path []string) string {
	switch {
	case len(path) == 3 && path[0] == "modules" && path[2] == "prepareupdate":
		return "2019-01-30"
	case len(path) == 2 && path[0] == "device" && path[1] == "reprovision":
		return "2019-10-22"
	case len(path) == 2 && path[0] == "systeminfo" && path[1] == "resources":
		return "2019-11-05"
	}
	return ""
}

// hasManagementBody tells the calls that take a document; what others send along
// is not looked at.
func hasManagementBody(r *http.Request) bool {
	path := segments(r)
	if path[0] != "modules" && path[0] != "identities" {
		return false
	}
	switch r.Method {
	case http.MethodPost:
		return len(path) == 1 || len(path) == 3 && path[2] == "prepareupdate"
	case http.MethodPut:
		return len(path) == 2
	}
	return false
}

func managementBody(body []byte) error {
	_, err := object(body)
	return err
}

// managementCode sets the status of calls that make or only do something.
func managementCode(ctx context.Context, w http.ResponseWriter, m proto.Message) error {
	switch m.(type) {
	case *managementv1.ModuleDetails:
		method, _ := runtime.RPCMethod(ctx)
		if method == managementv1.Modules_Create_FullMethodName || method == managementv1.Modules_Update_FullMethodName {
			w.WriteHeader(http.StatusCreated)
		}
	case *managementv1.DeleteResponse, *managementv1.StartResponse, *managementv1.StopResponse, *managementv1.RestartResponse,
		*managementv1.PrepareUpdateResponse, *managementv1.DeleteIdentityResponse, *managementv1.ReprovisionResponse:
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

func managementStatus(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	st := status.Convert(err)
	if st.Code() == codes.InvalidArgument && strings.HasPrefix(st.Message(), "proto:") {
		// The library's text varies on purpose.
		writeError(w, http.StatusUnprocessableEntity, "malformed JSON: a member of the wrong type")
		return
	}
	writeError(w, httpStatus(st.Code()), st.Message())
}

// systemMarshaler puts the pairs of SystemInfo.additional beside the fields, which
// win over pairs of the same name.
type systemMarshaler struct{ *marshaler }

// Marshal implements runtime.Marshaler.
func (m *systemMarshaler) Marshal(v any) ([]byte, error) {
	info, ok := v.(*managementv1.SystemInfo)
	if !ok {
		return m.marshaler.Marshal(v)
	}
	additional := info.GetAdditional()
	bare, ok := proto.Clone(info).(*managementv1.SystemInfo)
	if !ok {
		return nil, fmt.Errorf("%T is no system info", v)
	}
	bare.Additional = nil
	text, err := m.marshaler.Marshal(bare)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	delete(fields, "additional")
	for k, val := range additional {
		if _, taken := fields[k]; taken {
			continue
		}
		if fields[k], err = json.Marshal(val); err != nil {
			return nil, err
		}
	}
	return json.Marshal(fields)
}

// logsHandler answers GET /modules/{name}/logs with the engine's frames: a head of
// eight bytes (stream, three zeros, length), then the text.
type logsHandler struct{ local Local }

func (h *logsHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		writeError(w, http.StatusBadRequest, "method not allowed")
		return
	}
	request, err := logsRequest(r)
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	out := http.NewResponseController(w)
	begun := false
	accepted := func() {
		begun = true
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusOK)
		// An error shows at the next write.
		_ = out.Flush()
	}
	err = h.local.Stream(r.Context(), managementv1.Modules_Logs_FullMethodName, request, accepted, func(m proto.Message) error {
		chunk, ok := m.(*managementv1.LogChunk)
		if !ok {
			return status.Error(codes.Internal, "unexpected message")
		}
		if err := writeFrame(w, byte(chunk.GetStream()), chunk.GetData()); err != nil {
			return status.Error(codes.Canceled, "client is gone")
		}
		if !request.GetFollow() {
			return nil
		}
		return out.Flush()
	})
	switch {
	case err == nil:
	case begun:
		panic(http.ErrAbortHandler) // ends the connection, so that the client sees the break
	default:
		st := status.Convert(err)
		writeError(w, httpStatus(st.Code()), st.Message())
	}
}

// logsRequest reads the name and the query.
func logsRequest(r *http.Request) (*managementv1.LogsRequest, error) {
	name, err := url.PathUnescape(segments(r)[1])
	if err != nil {
		return nil, fmt.Errorf("malformed path")
	}
	q := r.URL.Query()
	out := &managementv1.LogsRequest{Name: name, Tail: q.Get("tail"), Since: q.Get("since"), Until: q.Get("until")}
	for member, to := range map[string]*bool{"follow": &out.Follow, "timestamps": &out.Timestamps} {
		switch q.Get(member) {
		case "true":
			*to = true
		case "false", "":
		default:
			return nil, fmt.Errorf("invalid parameter: %s must be true or false", member)
		}
	}
	return out, nil
}

func writeFrame(w io.Writer, stream byte, data []byte) error {
	var frame bytes.Buffer
	frame.Grow(8 + len(data))
	frame.Write([]byte{stream, 0, 0, 0})
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(len(data)))
	frame.Write(size[:])
	frame.Write(data)
	_, err := w.Write(frame.Bytes())
	return err
}
