package edged

import (
	"context"
	"errors"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// Info returns what the daemon tells about the host.
func (c *Client) Info(ctx context.Context) (*managementv1.SystemInfo, error) {
	info, err := c.system.GetInfo(ctx, &managementv1.GetInfoRequest{})
	return info, callError("host information", err)
}

// Resources measures the host and the running modules.
func (c *Client) Resources(ctx context.Context) (*managementv1.SystemResources, error) {
	res, err := c.system.GetResources(ctx, &managementv1.GetResourcesRequest{})
	return res, callError("resources of the host", err)
}

// Platform returns the part of the host information that is reported.
func (c *Client) Platform(ctx context.Context) (report.Platform, error) {
	info, err := c.Info(ctx)
	return report.Platform{OS: info.GetOsType(), Architecture: info.GetArchitecture(), Version: info.GetVersion()}, err
}

// Identities lists the module identities of this device.
func (c *Client) Identities(ctx context.Context) ([]launch.Identity, error) {
	res, err := c.identities.List(ctx, &managementv1.ListIdentitiesRequest{})
	if err != nil {
		return nil, callError("list identities", err)
	}
	list := make([]launch.Identity, 0, len(res.GetIdentities()))
	for _, id := range res.GetIdentities() {
		list = append(list, identity(id))
	}
	return list, nil
}

// CreateIdentity makes a module identity.
func (c *Client) CreateIdentity(ctx context.Context, moduleID, managedBy string) (launch.Identity, error) {
	id, err := c.identities.Create(ctx, &managementv1.CreateIdentityRequest{ModuleId: moduleID, ManagedBy: &managedBy})
	return identity(id), callError("create identity "+moduleID, err)
}

// UpdateIdentity confirms an identity and returns it as it is now.
func (c *Client) UpdateIdentity(ctx context.Context, id launch.Identity) (launch.Identity, error) {
	res, err := c.identities.Update(ctx, &managementv1.UpdateIdentityRequest{
		ModuleId: id.ModuleID, GenerationId: id.Generation, ManagedBy: &id.ManagedBy,
	})
	return identity(res), callError("update identity "+id.ModuleID, err)
}

// DeleteIdentity deletes a module identity. One that is not there is deleted.
func (c *Client) DeleteIdentity(ctx context.Context, moduleID string) error {
	_, err := c.identities.Delete(ctx, &managementv1.DeleteIdentityRequest{ModuleId: moduleID})
	if err = callError("delete identity "+moduleID, err); errors.Is(err, launch.ErrNotFound) {
		return nil
	}
	return err
}

func identity(id *managementv1.Identity) launch.Identity {
	return launch.Identity{ModuleID: id.GetModuleId(), ManagedBy: id.GetManagedBy(), Generation: id.GetGenerationId()}
}

// TrustBundle returns the certificates that the daemon trusts beside the well-known
// ones, as PEM.
func (c *Client) TrustBundle(ctx context.Context) ([]byte, error) {
	res, err := c.work.GetTrustBundle(ctx, &workloadv1.GetTrustBundleRequest{})
	return []byte(res.GetCertificate()), callError("trust bundle", err)
}

// Seal encrypts for this agent.
func (c *Client) Seal(ctx context.Context, plaintext, iv []byte) ([]byte, error) {
	res, err := c.work.Encrypt(ctx, &workloadv1.EncryptRequest{
		ModuleId: c.opts.ModuleID, GenerationId: c.opts.Generation, Plaintext: plaintext, InitializationVector: iv,
	})
	return res.GetCiphertext(), callError("encrypt", err)
}

// Open decrypts what Seal encrypted.
func (c *Client) Open(ctx context.Context, sealed, iv []byte) ([]byte, error) {
	res, err := c.work.Decrypt(ctx, &workloadv1.DecryptRequest{
		ModuleId: c.opts.ModuleID, GenerationId: c.opts.Generation, Ciphertext: sealed, InitializationVector: iv,
	})
	return res.GetPlaintext(), callError("decrypt", err)
}
