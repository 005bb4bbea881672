package http

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/listen"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Two families of calls come from edge devices below this one (spec edgehub-core
// 13.2). What an agent asks about its own device's modules:
//
//	GET            /devices/{d}/modules
//	GET PUT DELETE /devices/{d}/modules/{m}
//
// and what a hub asks for itself or for those below it, with the auth chain of whom
// it means, of which only the beginning is believed:
//
//	PUT or POST    /devices/{actor}/modules/$edgeHub/{call}
//
// childCall is one of them; it gives the answer's document, or a rest.Answer.
type childCall func(s *Server, r *http.Request, path []string, body []byte) (any, error)

// errorMember is how the member with the text of an error is called.
const (
	scopeError    = "ErrorMessage"
	registryError = "errorMessage"
)

// findChild finds the call of a method and path; allow lists the methods that the
// path has.
func findChild(method string, path []string) (call childCall, errorMember, allow string) {
	type entry struct {
		method string
		call   childCall
	}
	pick := func(member string, entries ...entry) (childCall, string, string) {
		var methods []string
		for _, e := range entries {
			if e.method == method {
				return e.call, member, ""
			}
			methods = append(methods, e.method)
		}
		return nil, member, strings.Join(methods, ", ")
	}
	if len(path) < 3 || !strings.EqualFold(path[2], "modules") {
		return nil, registryError, ""
	}
	const get, put, post, del = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete
	switch len(path) {
	case 3:
		return pick(registryError, entry{get, ofDevice(rest.ListModules)})
	case 4:
		return pick(registryError, entry{get, ofDevice(rest.GetModule)}, entry{put, ofDevice(rest.PutModule)}, entry{del, ofDevice(rest.DeleteModule)})
	case 5:
		switch strings.ToLower(path[4]) {
		case "devicesandmodulesintargetdevicescope":
			return pick(scopeError, entry{post, members})
		case "getdeviceandmoduleonbehalfof":
			return pick(scopeError, entry{post, member})
		case "putmoduleonbehalfof":
			return pick(registryError, entry{put, ofHub(rest.PutModule)})
		case "getmoduleonbehalfof":
			return pick(registryError, entry{post, ofHub(rest.GetModule)})
		case "getmodulesontargetdevice":
			return pick(registryError, entry{post, ofHub(rest.ListModules)})
		case "deletemoduleonbehalfof":
			return pick(registryError, entry{post, ofHub(rest.DeleteModule)})
		}
	}
	return nil, registryError, ""
}

// children answers everything under /devices.
func (s *Server) children(w http.ResponseWriter, r *http.Request, path []string) {
	call, member, allow := findChild(r.Method, path)
	answer, err := any(nil), error(&problem{http.StatusNotFound, "there is nothing here"})
	switch {
	case call != nil:
		answer, err = s.callChild(w, r, path, call)
	case allow != "":
		w.Header().Set("Allow", allow)
		err = &problem{http.StatusMethodNotAllowed, "use " + allow}
	}
	if err != nil {
		p := s.childProblem(r, err)
		s.write(w, p.status, map[string]string{member: p.text})
		return
	}
	if raw, ok := answer.(rest.Answer); ok {
		s.relay(w, raw)
		return
	}
	s.write(w, http.StatusOK, answer)
}

// callChild authenticates the caller, reads the body, and makes the call.
func (s *Server) callChild(w http.ResponseWriter, r *http.Request, path []string, call childCall) (any, error) {
	caller := iothub.DeviceIdentity(path[1])
	if len(path) == 5 {
		if path[3] != iothub.HubModule {
			return nil, &problem{http.StatusUnauthorized, "only the hub of an edge device speaks for others"}
		}
		caller.Module = path[3]
	}
	if iothub.CheckID(caller.Device) != nil {
		return nil, bad("the device id is not valid")
	}
	if err := s.authenticate(r, caller); err != nil {
		return nil, err
	}
	body, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	select {
	case s.child <- struct{}{}:
		defer func() { <-s.child }()
	default:
		return nil, &problem{http.StatusTooManyRequests, "too many calls are under way"}
	}
	return call(s, r, path, body)
}

// authenticate checks the credentials of a request. A connection on which they hold does not
// have to give way to others.
func (s *Server) authenticate(r *http.Request, caller iothub.Identity) error {
	l := head.Login{Identity: caller, Protocol: "http", Token: r.Header.Get("Authorization"), Remote: address(r.RemoteAddr)}
	if l.Token == "" && r.TLS != nil {
		l.Peer = r.TLS.PeerCertificates
	}
	err := s.o.Backend.Authenticate(r.Context(), l)
	if err == nil {
		listen.Known(r.Context())
	}
	return err
}

// childProblem is what a caller is told of an error. An answer of the registry is
// passed on.
func (s *Server) childProblem(r *http.Request, err error) *problem {
	var p *problem
	var refused *rest.Error
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &refused):
		text := refused.Message
		if refused.Code != "" {
			text = "ErrorCode:" + refused.Code + ";" + text
		}
		return &problem{refused.Status, text}
	case errors.Is(err, head.ErrUnauthorized):
		s.o.Logger.Info("call of a child refused", "path", r.URL.Path, "remote", r.RemoteAddr, "error", err)
		return &problem{http.StatusUnauthorized, "the caller may not do this, or cannot prove who it is"}
	case errors.Is(err, head.ErrNotFound):
		return &problem{http.StatusNotFound, "the identity is not known"}
	case errors.Is(err, head.ErrUnavailable):
		return &problem{http.StatusServiceUnavailable, "this cannot be decided now"}
	}
	s.o.Logger.Warn("call of a child failed", "path", r.URL.Path, "error", err)
	return &problem{http.StatusInternalServerError, "the registry cannot be reached"}
}

// relay passes an answer of the registry on.
func (s *Server) relay(w http.ResponseWriter, a rest.Answer) {
	if a.Etag != "" {
		w.Header().Set("Etag", a.Etag)
	}
	if len(a.Body) > 0 {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	w.WriteHeader(a.Status)
	if _, err := w.Write(a.Body); err != nil {
		s.o.Logger.Debug("http answer not written", "error", err)
	}
}

// target is the identity that begins an auth chain.
func target(authChain string) (iothub.Identity, error) {
	text, _, _ := strings.Cut(authChain, ";")
	id, err := iothub.ParseIdentity(text)
	if err != nil {
		return id, bad("authChain does not begin with an id")
	}
	return id, nil
}

func members(s *Server, _ *http.Request, path []string, body []byte) (any, error) {
	var in rest.ScopePage
	if json.Unmarshal(body, &in) != nil {
		return nil, bad("the body is not a scope request")
	}
	id, err := target(in.AuthChain)
	if err != nil {
		return nil, err
	}
	return s.o.Backend.Members(path[1], id.Device)
}

func member(s *Server, r *http.Request, path []string, body []byte) (any, error) {
	var in rest.ScopeTarget
	if json.Unmarshal(body, &in) != nil {
		return nil, bad("the body is not a scope request")
	}
	id := iothub.Identity{Device: in.TargetDeviceID, Module: string(in.TargetModuleID)}
	if iothub.CheckID(id.Device) != nil || id.IsModule() && iothub.CheckID(id.Module) != nil {
		return nil, bad("the target is not valid")
	}
	return s.o.Backend.Member(r.Context(), path[1], id)
}

// ofDevice makes a registry call of a device about its own modules.
func ofDevice(call rest.ModuleCall) childCall {
	return func(s *Server, r *http.Request, path []string, body []byte) (any, error) {
		o := rest.OnBehalfOf{IfMatch: r.Header.Get("If-Match")}
		if len(path) == 4 {
			o.Module = path[3]
			if iothub.CheckID(o.Module) != nil {
				return nil, bad("the module id is not valid")
			}
		}
		if call == rest.PutModule {
			var doc struct {
				ModuleID string `json:"moduleId"`
			}
			if json.Unmarshal(body, &doc) != nil || doc.ModuleID != o.Module {
				return nil, bad("the body is not the module of the path")
			}
			o.Document = body
		}
		return s.o.Backend.Modules(r.Context(), path[1], path[1], call, o)
	}
}

// ofHub makes a registry call of a hub for an edge device below it.
func ofHub(call rest.ModuleCall) childCall {
	return func(s *Server, r *http.Request, path []string, body []byte) (any, error) {
		var in struct {
			AuthChain      string          `json:"authChain"`
			Module         json.RawMessage `json:"module"`
			TargetModuleID string          `json:"targetModuleId"`
			ModuleID       string          `json:"moduleId"`
		}
		if json.Unmarshal(body, &in) != nil {
			return nil, bad("the body is not a request on behalf of a device")
		}
		id, err := target(in.AuthChain)
		if err != nil {
			return nil, err
		}
		o := rest.OnBehalfOf{IfMatch: r.Header.Get("If-Match")}
		switch call {
		case rest.PutModule:
			var doc struct {
				ModuleID string `json:"moduleId"`
			}
			if json.Unmarshal(in.Module, &doc) != nil || iothub.CheckID(doc.ModuleID) != nil {
				return nil, bad("module is missing or has no valid id")
			}
			o.Document = in.Module
		case rest.GetModule:
			o.Module = in.TargetModuleID
		case rest.DeleteModule:
			o.Module = in.ModuleID
		case rest.ListModules:
		}
		if call != rest.PutModule && call != rest.ListModules && iothub.CheckID(o.Module) != nil {
			return nil, bad("the module id is not valid")
		}
		return s.o.Backend.Modules(r.Context(), path[1], id.Device, call, o)
	}
}
