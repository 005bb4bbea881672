// Package workload is the workload API: what a module may ask for itself. Who asks
// was decided before a call gets here (package peer): the request's module is the
// caller.
package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	"github.com/breakwater-iot/breakwater/daemon/internal/keys"
	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// Policy says who may call which method of the workload API.
func Policy() peer.Policy {
	return peer.Policy{
		workloadv1.Workload_Sign_FullMethodName:                      peer.Self,
		workloadv1.Workload_Encrypt_FullMethodName:                   peer.Self,
		workloadv1.Workload_Decrypt_FullMethodName:                   peer.Self,
		workloadv1.Workload_CreateServerCertificate_FullMethodName:   peer.Self,
		workloadv1.Workload_CreateIdentityCertificate_FullMethodName: peer.Self,
		workloadv1.Workload_GetTrustBundle_FullMethodName:            peer.Anybody,
		workloadv1.Workload_GetManifestTrustBundle_FullMethodName:    peer.Anybody,
		workloadv1.Workload_ListModules_FullMethodName:               peer.Anybody,
		healthv1.Health_Check_FullMethodName:                         peer.Anybody,
	}
}

// Identities knows module identities; *identity.Manager does.
type Identities interface {
	Lookup(ctx context.Context, module string) (identity.Identity, error)
}

// Keys signs and seals; *keys.Ring does.
type Keys interface {
	Sign(module, generation string, data []byte) []byte
	Encrypt(module, generation string, iv, plaintext []byte) ([]byte, error)
	Decrypt(module, generation string, iv, sealed []byte) ([]byte, error)
}

// Issuer issues certificates; *pki.Authority does.
type Issuer interface {
	Server(module, commonName string) (pki.Issued, error)
	Identity(hub, device, module string) (pki.Issued, error)
	TrustBundle() string
}

// Modules lists modules; *module.Manager does.
type Modules interface {
	List(ctx context.Context) ([]runtime.State, error)
}

// Service implements the workload API. All fields but ManifestTrust are needed.
type Service struct {
	workloadv1.UnimplementedWorkloadServer

	Hub, Device string
	Identities  Identities
	Keys        Keys
	Issuer      Issuer
	Modules     Modules
	// ManifestTrust are the roots, in PEM, of the signers of deployment manifests; may
	// be empty.
	ManifestTrust string
	Log           *slog.Logger
}

var _ workloadv1.WorkloadServer = (*Service)(nil)

// Sign signs with the primary key of the module's current generation.
func (s *Service) Sign(ctx context.Context, r *workloadv1.SignRequest) (*workloadv1.SignResponse, error) {
	id, err := s.identity(ctx, r.GetModuleId())
	if err != nil {
		return nil, err
	}
	return &workloadv1.SignResponse{Digest: s.Keys.Sign(id.ModuleID, id.GenerationID, r.GetData())}, nil
}

// Encrypt seals data for the module's current generation.
func (s *Service) Encrypt(ctx context.Context, r *workloadv1.EncryptRequest) (*workloadv1.EncryptResponse, error) {
	if err := s.current(ctx, r.GetModuleId(), r.GetGenerationId()); err != nil {
		return nil, err
	}
	out, err := s.Keys.Encrypt(r.GetModuleId(), r.GetGenerationId(), r.GetInitializationVector(), r.GetPlaintext())
	if err != nil {
		return nil, s.fail(ctx, "encrypt", err)
	}
	return &workloadv1.EncryptResponse{Ciphertext: out}, nil
}

// Decrypt opens what Encrypt sealed.
func (s *Service) Decrypt(ctx context.Context, r *workloadv1.DecryptRequest) (*workloadv1.DecryptResponse, error) {
	if err := s.current(ctx, r.GetModuleId(), r.GetGenerationId()); err != nil {
		return nil, err
	}
	out, err := s.Keys.Decrypt(r.GetModuleId(), r.GetGenerationId(), r.GetInitializationVector(), r.GetCiphertext())
	if err != nil {
		return nil, s.fail(ctx, "decrypt", err)
	}
	return &workloadv1.DecryptResponse{Plaintext: out}, nil
}

// CreateServerCertificate issues a server certificate for the requested name.
func (s *Service) CreateServerCertificate(ctx context.Context, r *workloadv1.ServerCertificateRequest) (*workloadv1.Certificate, error) {
	out, err := s.Issuer.Server(r.GetModuleId(), r.GetCommonName())
	if err != nil {
		return nil, s.fail(ctx, "server certificate", err)
	}
	return certificate(out), nil
}

// CreateIdentityCertificate issues a client certificate for the module.
func (s *Service) CreateIdentityCertificate(ctx context.Context, r *workloadv1.IdentityCertificateRequest) (*workloadv1.Certificate, error) {
	out, err := s.Issuer.Identity(s.Hub, s.Device, r.GetModuleId())
	if err != nil {
		return nil, s.fail(ctx, "identity certificate", err)
	}
	return certificate(out), nil
}

func certificate(i pki.Issued) *workloadv1.Certificate {
	return &workloadv1.Certificate{
		PrivateKey:  &workloadv1.PrivateKey{Type: "key", Bytes: i.KeyPEM},
		Certificate: i.ChainPEM,
		Expiration:  i.NotAfter.UTC().Format(time.RFC3339),
	}
}

// GetTrustBundle returns what clients of this device trust.
func (s *Service) GetTrustBundle(context.Context, *workloadv1.GetTrustBundleRequest) (*workloadv1.TrustBundle, error) {
	return &workloadv1.TrustBundle{Certificate: s.Issuer.TrustBundle()}, nil
}

// GetManifestTrustBundle returns the roots of signers of manifests, which are an empty
// text if none are configured (spec security-daemon 3.1).
func (s *Service) GetManifestTrustBundle(context.Context, *workloadv1.GetManifestTrustBundleRequest) (*workloadv1.TrustBundle, error) {
	return &workloadv1.TrustBundle{Certificate: s.ManifestTrust}, nil
}

// ListModules lists the modules and their state.
func (s *Service) ListModules(ctx context.Context, _ *workloadv1.ListModulesRequest) (*workloadv1.ListModulesResponse, error) {
	all, err := s.Modules.List(ctx)
	if err != nil {
		return nil, s.fail(ctx, "list modules", err)
	}
	out := &workloadv1.ListModulesResponse{Modules: make([]*workloadv1.Module, 0, len(all))}
	for _, st := range all {
		out.Modules = append(out.Modules, describe(st))
	}
	return out, nil
}

// identity looks a module up; one that is unknown is an internal error to the
// module, as in the original, so that clients try again.
func (s *Service) identity(ctx context.Context, module string) (identity.Identity, error) {
	id, err := s.Identities.Lookup(ctx, module)
	if err != nil {
		return identity.Identity{}, s.fail(ctx, "module identity", err)
	}
	return id, nil
}

// errGeneration is answered like any other failure of the cipher.
var errGeneration = errors.New("generation is not the module's current one")

// current lets a module seal and open only for its current generation: the text
// that binds sealed data to its owner is the module id and generation without a
// separator, and with a free generation one module could form another's.
func (s *Service) current(ctx context.Context, module, generation string) error {
	id, err := s.identity(ctx, module)
	if err != nil {
		return err
	}
	if id.GenerationID != generation {
		return s.fail(ctx, "seal", errGeneration)
	}
	return nil
}

// fail turns an error into a status. Nothing in these errors is secret.
func (s *Service) fail(ctx context.Context, what string, err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, keys.ErrVector), errors.Is(err, pki.ErrCommonName):
		return status.Error(codes.InvalidArgument, fmt.Sprintf("invalid parameter: %v", err))
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	s.Log.WarnContext(ctx, "workload call failed", "what", what, "error", err)
	return status.Error(code, fmt.Sprintf("%s: %v", what, err))
}
