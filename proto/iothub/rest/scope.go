package rest

import (
	"context"
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
