package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
	streams := &streamHandler{local: local}
	route := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := segments(r)
		switch {
		case len(path) == 3 && path[0] == "modules" && path[2] == "logs":
			streams.logs(w, r, path[1])
		case len(path) == 2 && path[0] == "systeminfo" && path[1] == "supportbundle":
			streams.bundle(w, r)
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
	case len(path) == 2 && path[0] == "systeminfo" && path[1] == "supportbundle":
		return "2020-07-07"
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
