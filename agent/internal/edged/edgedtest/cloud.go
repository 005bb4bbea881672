package edgedtest

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Cloud holds one twin, as a hub does.
type Cloud struct {
	mu       sync.Mutex
	desired  json.RawMessage
	reported json.RawMessage
	patches  []json.RawMessage
	down     bool
	pulls    int
}

// ErrDown is returned while the cloud is down.
var ErrDown = errors.New("cloud is down")

// NewCloud returns a twin with this desired section, which has its "$version".
func NewCloud(desired string) *Cloud {
	return &Cloud{desired: json.RawMessage(desired), reported: json.RawMessage(`{"$version":1}`)}
}

// SetDown switches the cloud off and on.
func (c *Cloud) SetDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

// SetDesired replaces the desired section, "$version" included.
func (c *Cloud) SetDesired(desired string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.desired = json.RawMessage(desired)
}

// Twin returns the twin.
func (c *Cloud) Twin(context.Context) (iothub.TwinProperties, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return iothub.TwinProperties{}, ErrDown
	}
	c.pulls++
	return iothub.TwinProperties{Desired: c.desired, Reported: c.reported}, nil
}

// PatchReported merges a patch.
func (c *Cloud) PatchReported(_ context.Context, patch json.RawMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return ErrDown
	}
	merged, err := iothub.MergePatch(c.reported, patch)
	if err != nil {
		return err
	}
	c.reported = merged
	c.patches = append(c.patches, patch)
	return nil
}

// Patches returns the patches since the last call.
func (c *Cloud) Patches() []json.RawMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.patches
	c.patches = nil
	return p
}

// Pulls counts the calls of Twin that were answered.
func (c *Cloud) Pulls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pulls
}

// Reported returns the reported section.
func (c *Cloud) Reported() json.RawMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reported
}
