package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func actorPath(actor, call string) string {
	return modulePath(iothub.ModuleIdentity(actor, iothub.HubModule)) + "/" + call
}

// AuthChain joins ids, target first and actor last.
func AuthChain(ids ...string) string { return strings.Join(ids, ";") }

// ScopeList reads one page of the scope of the first device of page.AuthChain, in
// the name of actor, an edge device: the device itself, its modules and its direct
// children. The credentials must be those of the actor's $edgeHub.
func (c *Client) ScopeList(ctx context.Context, actor string, page ScopePage) (ScopeResult, error) {
	var out ScopeResult
	err := c.do(ctx, request{
		method: http.MethodPost, path: actorPath(actor, "devicesAndModulesInTargetDeviceScope"),
		version: scopeAPIVersion, body: page,
	}, &out)
	return out, err
}

// ScopeAll reads all pages of ScopeList and calls each for every one. An error of
// each ends it and is returned.
func (c *Client) ScopeAll(ctx context.Context, actor string, page ScopePage, each func(ScopeResult) error) error {
	for {
		result, err := c.ScopeList(ctx, actor, page)
		if err != nil {
			return err
		}
		if err := each(result); err != nil {
			return err
		}
		if result.ContinuationLink == "" {
			return nil
		}
		if result.ContinuationLink == page.ContinuationLink {
			return fmt.Errorf("scope of %s: the hub repeats a page", actor)
		}
		page.ContinuationLink = result.ContinuationLink
	}
}

// ScopeGet reads one identity of the scope of the first device of authChain: the
// device, and for a module also the module.
func (c *Client) ScopeGet(ctx context.Context, actor string, target iothub.Identity, authChain string) (ScopeResult, error) {
	var out ScopeResult
	err := c.do(ctx, request{
		method: http.MethodPost, path: actorPath(actor, "getDeviceAndModuleOnBehalfOf"),
		version: scopeAPIVersion,
		body:    ScopeTarget{TargetDeviceID: target.Device, TargetModuleID: Text(target.Module), AuthChain: authChain},
	}, &out)
	return out, err
}

// ModuleCall is a registry call about the modules of an edge device.
type ModuleCall uint8

// The calls that an edge device forwards for those below it.
const (
	PutModule ModuleCall = iota
	GetModule
	ListModules
	DeleteModule
)

// OnBehalfOf is what a ModuleCall is about.
type OnBehalfOf struct {
	// AuthChain begins with the device whose modules are meant and ends with the
	// caller.
	AuthChain string
	// Module is the name of the module; not for PutModule and ListModules.
	Module string
	// Document is the module as PutModule writes it, a Module in JSON.
	Document json.RawMessage
	// IfMatch is a precondition, as in the header; "" for none.
	IfMatch string
}

// Answer is a successful answer as it came.
type Answer struct {
	Status int
	Etag   string // as in the header, with its quotes; may be empty
	Body   []byte
}

// OnBehalf makes a registry call in the name of actor, an edge device, whose
// $edgeHub must be who the credentials are of.
func (c *Client) OnBehalf(ctx context.Context, actor string, call ModuleCall, o OnBehalfOf) (Answer, error) {
	body := struct {
		AuthChain      string          `json:"authChain"`
		Module         json.RawMessage `json:"module,omitempty"`
		TargetModuleID string          `json:"targetModuleId,omitempty"`
		ModuleID       string          `json:"moduleId,omitempty"`
	}{AuthChain: o.AuthChain}
	r := request{method: http.MethodPost, version: scopeAPIVersion, ifMatch: o.IfMatch}
	switch call {
	case PutModule:
		r.method, r.path, body.Module = http.MethodPut, actorPath(actor, "putModuleOnBehalfOf"), o.Document
		r.once = o.IfMatch == "" // a second attempt would find what the first has made
	case GetModule:
		r.path, body.TargetModuleID = actorPath(actor, "getModuleOnBehalfOf"), o.Module
	case ListModules:
		r.path = actorPath(actor, "getModulesOnTargetDevice")
	case DeleteModule:
		r.path, body.ModuleID = actorPath(actor, "deleteModuleOnBehalfOf"), o.Module
	}
	r.body = body
	var raw rawAnswer
	err := c.do(ctx, r, &raw)
	return Answer{Status: raw.status, Etag: raw.header.Get("Etag"), Body: raw.body}, err
}
