package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// streamHandler answers the paths whose answers are streams of bytes.
type streamHandler struct{ local Local }

// logs answers GET /modules/{name}/logs with the engine's frames: a head of eight
// bytes (stream, three zeros, length), then the text.
func (h *streamHandler) logs(w http.ResponseWriter, r *http.Request, name string) {
	name, err := url.PathUnescape(name)
	if err != nil {
		writeError(w, http.StatusBadRequest, "malformed path")
		return
	}
	q := r.URL.Query()
	request := &managementv1.LogsRequest{Name: name, Tail: q.Get("tail"), Since: q.Get("since"), Until: q.Get("until")}
	if err := errors.Join(readBool(q, "follow", &request.Follow), readBool(q, "timestamps", &request.Timestamps)); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	h.stream(w, r, managementv1.Modules_Logs_FullMethodName, request, "text/plain", request.GetFollow(), func(m proto.Message) []byte {
		chunk, ok := m.(*managementv1.LogChunk)
		if !ok {
			return nil
		}
		return frame(byte(chunk.GetStream()), chunk.GetData())
	})
}

// bundle answers GET /systeminfo/supportbundle with a zip file.
func (h *streamHandler) bundle(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	request := &managementv1.SupportBundleRequest{Since: q.Get("since"), Until: q.Get("until"), IothubHostname: q.Get("iothub_hostname")}
	if err := readBool(q, "edge_runtime_only", &request.EdgeRuntimeOnly); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	h.stream(w, r, managementv1.System_SupportBundle_FullMethodName, request, "application/zip", false, func(m proto.Message) []byte {
		chunk, ok := m.(*managementv1.BundleChunk)
		if !ok {
			return nil
		}
		return chunk.GetData()
	})
}

// readBool reads a member of the query, if it is there.
func readBool(q url.Values, name string, to *bool) error {
	switch q.Get(name) {
	case "true":
		*to = true
	case "false", "":
	default:
		return fmt.Errorf("invalid parameter: %s must be true or false", name)
	}
	return nil
}

// stream makes a call and writes what it answers. A call that fails after its
// beginning breaks the connection, so that the client sees it.
func (h *streamHandler) stream(w http.ResponseWriter, r *http.Request, method string, request proto.Message, contentType string, flush bool, encode func(proto.Message) []byte) {
	if r.Method != http.MethodGet {
		writeError(w, http.StatusBadRequest, "method not allowed")
		return
	}
	out := http.NewResponseController(w)
	begun := false
	accepted := func() {
		begun = true
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(http.StatusOK)
		// An error shows at the next write.
		_ = out.Flush()
	}
	err := h.local.Stream(r.Context(), method, request, accepted, func(m proto.Message) error {
		if _, err := w.Write(encode(m)); err != nil {
			return status.Error(codes.Canceled, "client is gone")
		}
		if !flush {
			return nil
		}
		return out.Flush()
	})
	switch {
	case err == nil:
	case begun:
		panic(http.ErrAbortHandler)
	default:
		st := status.Convert(err)
		writeError(w, httpStatus(st.Code()), st.Message())
	}
}

func frame(stream byte, data []byte) []byte {
	out := make([]byte, 8, 8+len(data))
	out[0] = stream
	binary.BigEndian.PutUint32(out[4:], uint32(len(data)))
	return append(out, data...)
}
