package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Values of ifMatch besides an etag: what must be there before a write.
const (
	// MustNotExist creates; a Put of an existing identity fails with status 409.
	MustNotExist = ""
	// MustExist updates whatever is there; status 404 if nothing is.
	MustExist = "*"
)

func devicePath(device string) string { return "/devices/" + url.PathEscape(device) }

func modulePath(id iothub.Identity) string {
	return devicePath(id.Device) + "/modules/" + url.PathEscape(id.Module)
}

func twinPath(id iothub.Identity) string {
	p := "/twins/" + url.PathEscape(id.Device)
	if id.IsModule() {
		p += "/modules/" + url.PathEscape(id.Module)
	}
	return p
}

// GetDevice reads a device identity.
func (c *Client) GetDevice(ctx context.Context, device string) (Device, error) {
	var out Device
	err := c.do(ctx, request{method: http.MethodGet, path: devicePath(device)}, &out)
	return out, err
}

// PutDevice creates (ifMatch MustNotExist) or updates a device. A create whose
// answer was lost reports status 409 when it is tried again.
func (c *Client) PutDevice(ctx context.Context, d Device, ifMatch string) (Device, error) {
	var out Device
	err := c.do(ctx, request{method: http.MethodPut, path: devicePath(d.DeviceID), body: d, ifMatch: ifMatch}, &out)
	return out, err
}

// DeleteDevice removes a device, its modules and twins. ifMatch "" means MustExist.
func (c *Client) DeleteDevice(ctx context.Context, device, ifMatch string) error {
	if ifMatch == "" {
		ifMatch = MustExist
	}
	return c.do(ctx, request{method: http.MethodDelete, path: devicePath(device), ifMatch: ifMatch}, nil)
}

// ListDevices returns at most top devices (0: as many as the hub gives, 1000).
func (c *Client) ListDevices(ctx context.Context, top int) ([]Device, error) {
	q := url.Values{}
	if top > 0 {
		q.Set("top", strconv.Itoa(top))
	}
	var out []Device
	err := c.do(ctx, request{method: http.MethodGet, path: "/devices", query: q}, &out)
	return out, err
}

// GetModule reads a module identity.
func (c *Client) GetModule(ctx context.Context, id iothub.Identity) (Module, error) {
	var out Module
	err := c.do(ctx, request{method: http.MethodGet, path: modulePath(id)}, &out)
	return out, err
}

// PutModule creates (ifMatch MustNotExist) or updates a module.
func (c *Client) PutModule(ctx context.Context, m Module, ifMatch string) (Module, error) {
	var out Module
	id := iothub.ModuleIdentity(m.DeviceID, m.ModuleID)
	err := c.do(ctx, request{method: http.MethodPut, path: modulePath(id), body: m, ifMatch: ifMatch}, &out)
	return out, err
}

// DeleteModule removes a module and its twin. ifMatch "" means MustExist.
func (c *Client) DeleteModule(ctx context.Context, id iothub.Identity, ifMatch string) error {
	if ifMatch == "" {
		ifMatch = MustExist
	}
	return c.do(ctx, request{method: http.MethodDelete, path: modulePath(id), ifMatch: ifMatch}, nil)
}

// ListModules returns the modules of a device, system modules included.
func (c *Client) ListModules(ctx context.Context, device string) ([]Module, error) {
	var out []Module
	err := c.do(ctx, request{method: http.MethodGet, path: devicePath(device) + "/modules"}, &out)
	return out, err
}

// GetTwin reads the twin of a device or module.
func (c *Client) GetTwin(ctx context.Context, id iothub.Identity) (Twin, error) {
	var out Twin
	err := c.do(ctx, request{method: http.MethodGet, path: twinPath(id)}, &out)
	return out, err
}

// PatchTwin merges a patch into a twin; ifMatch "" writes in any case.
func (c *Client) PatchTwin(ctx context.Context, id iothub.Identity, p TwinPatch, ifMatch string) (Twin, error) {
	var out Twin
	err := c.do(ctx, request{method: http.MethodPatch, path: twinPath(id), body: p, ifMatch: ifMatch}, &out)
	return out, err
}

// ReplaceTwin replaces tags and desired properties; ifMatch "" writes in any case.
func (c *Client) ReplaceTwin(ctx context.Context, id iothub.Identity, p TwinPatch, ifMatch string) (Twin, error) {
	var out Twin
	err := c.do(ctx, request{method: http.MethodPut, path: twinPath(id), body: p, ifMatch: ifMatch}, &out)
	return out, err
}

// InvokeMethod calls a direct method and waits for the answer. It is not tried
// again once the hub has seen it, because the device may have carried it out.
func (c *Client) InvokeMethod(ctx context.Context, id iothub.Identity, m MethodRequest) (MethodResult, error) {
	wait := m.ResponseTimeoutInSeconds
	if wait == 0 {
		wait = 30
	}
	timeout := time.Duration(wait+m.ConnectTimeoutInSeconds)*time.Second + 10*time.Second
	var out MethodResult
	err := c.do(ctx, request{method: http.MethodPost, path: twinPath(id) + "/methods", body: m, once: true, timeout: timeout}, &out)
	return out, err
}

// ApplyConfiguration puts a manifest on one edge device.
func (c *Client) ApplyConfiguration(ctx context.Context, device string, content ConfigurationContent) error {
	return c.do(ctx, request{method: http.MethodPost, path: devicePath(device) + "/applyConfigurationContent", body: content}, nil)
}

// QueryPage is some of the rows of a query, and the token for those that follow; it is
// empty if there are none.
type QueryPage struct {
	Rows []json.RawMessage
	Next string
}

// Query asks for twins in IoT Hub's query language: for at most so many rows (0: as
// many as the hub likes), from the beginning or from where the token of the page before
// says.
func (c *Client) Query(ctx context.Context, text string, rows int, token string) (QueryPage, error) {
	r := request{method: http.MethodPost, path: "/devices/query", body: map[string]string{"query": text}, header: http.Header{}}
	if rows > 0 {
		r.header.Set("X-Ms-Max-Item-Count", strconv.Itoa(rows))
	}
	if token != "" {
		r.header.Set("X-Ms-Continuation", token)
	}
	var raw rawAnswer
	if err := c.do(ctx, r, &raw); err != nil {
		return QueryPage{}, err
	}
	page := QueryPage{Next: raw.header.Get("X-Ms-Continuation")}
	if err := json.Unmarshal(raw.body, &page.Rows); err != nil {
		return QueryPage{}, fmt.Errorf("query: decode answer: %w", err)
	}
	return page, nil
}

// PutConfiguration creates (ifMatch MustNotExist) or updates a configuration. An update
// keeps the content, which may be left out.
func (c *Client) PutConfiguration(ctx context.Context, doc Configuration, ifMatch string) (Configuration, error) {
	var out Configuration
	err := c.do(ctx, request{method: http.MethodPut, path: configurationPath(doc.ID), body: doc, ifMatch: ifMatch}, &out)
	return out, err
}

// GetConfiguration reads a configuration with its metrics.
func (c *Client) GetConfiguration(ctx context.Context, id string) (Configuration, error) {
	var out Configuration
	err := c.do(ctx, request{method: http.MethodGet, path: configurationPath(id)}, &out)
	return out, err
}

// ListConfigurations reads all configurations with their metrics.
func (c *Client) ListConfigurations(ctx context.Context) ([]Configuration, error) {
	var out []Configuration
	err := c.do(ctx, request{method: http.MethodGet, path: "/configurations"}, &out)
	return out, err
}

// DeleteConfiguration removes a configuration.
func (c *Client) DeleteConfiguration(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: configurationPath(id), ifMatch: MustExist}, nil)
}

func configurationPath(id string) string { return "/configurations/" + url.PathEscape(id) }
