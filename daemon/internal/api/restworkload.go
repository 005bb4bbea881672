package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// WorkloadREST makes the handler of the workload API's REST paths, as the
// original serves them (spec security-daemon 2, 3, 14.3).
func WorkloadREST(ctx context.Context, local Local) (http.Handler, error) {
	return workloadREST(ctx, local, bodyTimeout)
}

func workloadREST(ctx context.Context, local Local, timeout time.Duration) (http.Handler, error) {
	mux := gateway(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newMarshaler()),
		runtime.WithErrorHandler(workloadStatus),
		runtime.WithForwardResponseOption(workloadCode),
	)
	if err := workloadv1.RegisterWorkloadHandlerClient(ctx, mux, workloadv1.NewWorkloadClient(local)); err != nil {
		return nil, err
	}
	always := func([]string) string { return "" }
	writes := func(r *http.Request) bool { return r.Method == http.MethodPost || r.Method == http.MethodPut }
	body := checkBody(buffered(mux), timeout, writes, workloadBody)
	return checkVersion(always, trailingSlash(narrow(body), "/modules")), nil
}

// workloadCode sets the status of calls that make something.
func workloadCode(_ context.Context, w http.ResponseWriter, m proto.Message) error {
	if _, ok := m.(*workloadv1.Certificate); ok {
		w.WriteHeader(http.StatusCreated)
	}
	return nil
}

// workloadBody accepts an object whose members, where the API knows them, are
// strings: all members of all workload requests are. An empty body is an empty
// object.
func workloadBody(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	members, err := object(body)
	if err != nil {
		return err
	}
	for name, value := range members {
		if workloadMembers[name] && value[0] != '"' && string(value) != "null" {
			return fmt.Errorf("malformed JSON: %s must be a string", name)
		}
	}
	return nil
}

// workloadMembers are the members of the workload requests.
var workloadMembers = map[string]bool{
	"keyId": true, "algo": true, "data": true, "plaintext": true, "ciphertext": true,
	"initializationVector": true, "commonName": true, "expiration": true,
}

func workloadStatus(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	st := status.Convert(err)
	message := st.Message()
	if st.Code() == codes.InvalidArgument && strings.HasPrefix(message, "proto:") {
		// The library's text varies on purpose; the only fault left is bad base64.
		message = "invalid parameter: not base64"
	}
	writeError(w, httpStatus(st.Code()), message)
}
