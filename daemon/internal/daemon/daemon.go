// Package daemon puts the parts of edged together and gives them their order: what
// happens at start, while it runs, and at the end (spec security-daemon 7).
package daemon

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/breakwater-iot/breakwater/daemon/internal/api"
	"github.com/breakwater-iot/breakwater/daemon/internal/bundle"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/daemon/internal/dps"
	"github.com/breakwater-iot/breakwater/daemon/internal/handover"
	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	"github.com/breakwater-iot/breakwater/daemon/internal/imagegc"
	"github.com/breakwater-iot/breakwater/daemon/internal/keys"
	"github.com/breakwater-iot/breakwater/daemon/internal/management"
	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/systemd"
	"github.com/breakwater-iot/breakwater/daemon/internal/watchdog"
	"github.com/breakwater-iot/breakwater/daemon/internal/workload"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// Options configures Run. Config, Runtime, Version and Log are needed.
type Options struct {
	Config  config.Config
	Runtime runtime.Runtime
	Version string
	Log     *slog.Logger
	// AdminGroup owns the management socket and may use it; -1 for root alone.
	AdminGroup int
	// Registry replaces the cloud's registry; nil means the real one.
	Registry identity.Registry
	// Resolver replaces the engine's knowledge of processes; nil means Runtime's.
	Resolver peer.Resolver
	// Token is the PKCS#11 token of the config; nil if it names none.
	Token Token
	// TPM is needed if the config has anything in one.
	TPM TPM
	// Inherited are sockets that the service manager has opened; may be nil.
	Inherited *systemd.Sockets
	// BundleExtras adds to support bundles what the machine tells; may be nil.
	BundleExtras func(ctx context.Context, a *bundle.Archive, wish bundle.Wish) error
	// Status is told in a line what the daemon does; may be nil.
	Status func(string)
	// Ready is called when both APIs are served; may be nil.
	Ready func()
	// Supervise runs from then on until its ctx ends, which is the beginning of the
	// daemon's end. alive tells whether both APIs answer. May be nil.
	Supervise func(ctx context.Context, alive func(context.Context) error) error
}

// Token is a PKCS#11 token; *pkcs11.Token is one.
type Token interface {
	credential.Token
	// Generate returns the RSA key of that name on the token of the URI, or without a
	// name the URI's own, and makes it if there is none.
	Generate(ctx context.Context, uri, name string) (crypto.Signer, error)
}

// TPM is the device's; *tpm.TPM is one.
type TPM interface {
	dps.Endorser
	credential.Token
	keys.Sealer
	// Generate returns the private key at the URI's handle, and makes it if there is none.
	Generate(ctx context.Context, uri string) (crypto.Signer, error)
	// NewKey and OpenKey are those of pki.Vault; their errors wrap tpm.ErrForeign or
	// tpm.ErrText for what is lost.
	NewKey(ctx context.Context) (key crypto.Signer, block []byte, err error)
	OpenKey(ctx context.Context, block []byte) (crypto.Signer, error)
}

// ErrReprovision ends the daemon when reprovisioning was asked for: it is to be
// started again.
var ErrReprovision = errors.New("reprovisioning was asked for")

// ErrLeave leaves the modules running, if it is the cause of the end of Run's context.
var ErrLeave = errors.New("modules are left to the next start")

// Run is the whole life of the daemon. It returns nil after ctx ended and all
// modules were stopped, or were left with ErrLeave, ErrReprovision after it stopped them
// on request and forgot what it knew of its identity, and another error when it cannot
// start or go on; modules then run on too. The next start takes over what runs. The
// caller holds LockHome.
func Run(ctx context.Context, opt Options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := newDaemon(opt, func() { cancel(ErrReprovision) })
	if err := d.become(ctx); err != nil {
		return d.endEarly(ctx, err)
	}
	// Modules use the APIs until they have ended, so these outlive ctx. A call to a socket
	// unit that nobody answers would also start the service again as soon as it has ended.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	var back errgroup.Group
	back.Go(func() error { return d.workload.Run(serving) })
	back.Go(func() error { return d.management.Run(serving) })

	err := d.prepare(ctx)
	switch {
	case err == nil:
		err = d.serve(ctx)
	case ctx.Err() != nil:
		d.Log.InfoContext(ctx, "asked to end during the start", "at", err)
		err = nil
	}
	cause := context.Cause(ctx)
	cancel(nil)
	d.manager.Close()
	if err == nil && !errors.Is(cause, ErrLeave) {
		d.stopModules(serving)
	}
	stopServing()
	err = errors.Join(err, back.Wait())
	if err == nil && errors.Is(cause, ErrReprovision) {
		return d.forget()
	}
	return err
}

// become finds out who the device is, and makes the parts.
func (d *daemon) become(ctx context.Context) error {
	if err := d.openCredential(ctx); err != nil {
		return err
	}
	d.ensureCertificate(ctx, d.localCA, "local CA")
	d.status("waiting to be provisioned")
	if err := d.identify(ctx); err != nil {
		return err
	}
	return d.assemble(ctx)
}

// endEarly ends a daemon that has not served anything yet: because of err, or because it
// was asked to end, as when it waits to be provisioned. Modules of an earlier daemon end
// with it then, as they do later.
func (d *daemon) endEarly(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	d.Log.InfoContext(ctx, "asked to end during the start", "at", err)
	if !errors.Is(context.Cause(ctx), ErrLeave) {
		d.manager = module.New(module.Options{Runtime: d.Runtime, Sockets: noSockets{}, Log: part(d.Log, "module")})
		d.stopModules(context.WithoutCancel(ctx))
	}
	return nil
}

// daemon is the assembled program.
type daemon struct {
	Options
	home    string
	started time.Time

	// Who the device is.
	keys          credential.Keys
	credential    credential.Credential
	localCA       *pki.Holder   // nil unless it is issued
	identityCert  *pki.Holder   // nil unless it is issued
	estIdentities []*pki.Holder // certificates to get others with
	doubts        chan struct{} // holds one when the assignment may have changed
	roots         *x509.CertPool
	userBundle    []byte
	manifestTrust string // PEM

	authority  *pki.Authority
	identities *identity.Manager
	manager    *module.Manager
	handover   *handover.Handover
	sockets    *workload.Sockets
	imageUses  *imagegc.Uses
	imagesKept *imagegc.Kept
	workload   *api.Server
	management *api.Server
	// reprovision ends the daemon with ErrReprovision.
	reprovision func()
	// Paths of the shared sockets, once they are open.
	workloadPath, managementPath string
}

func newDaemon(opt Options, reprovision func()) *daemon {
	d := &daemon{
		Options: opt, home: opt.Config.HomeDir, started: time.Now(), reprovision: reprovision,
		doubts: make(chan struct{}, 1),
	}
	if d.Resolver == nil {
		d.Resolver = opt.Runtime
	}
	return d
}

// assemble makes the parts, once the device is known.
func (d *daemon) assemble(ctx context.Context) error {
	cfg := d.Config
	ring, err := d.openRing()
	if err != nil {
		return err
	}
	if err := d.openAuthority(ctx); err != nil {
		return err
	}
	if err := d.openRegistry(); err != nil {
		return err
	}
	if d.identities, err = identity.New(identity.Options{
		Registry: d.Registry, Keys: ring, Hub: cfg.Device.HubName, Device: cfg.Device.DeviceID, OnRefused: d.doubt, PreferCache: cfg.PreferCache,
		CacheFile: filepath.Join(d.home, "cache", "identities.json"), Log: part(d.Log, "identity"),
	}); err != nil {
		return err
	}
	svc := &workload.Service{
		Hub: cfg.Device.HubName, Device: cfg.Device.DeviceID,
		Identities: d.identities, Keys: ring, Issuer: d.authority, ManifestTrust: d.manifestTrust, Log: part(d.Log, "workload"),
	}
	if d.workload, err = d.server("workload", workload.Policy(), cfg.MaxRequests.Workload, api.WorkloadREST,
		func(r grpc.ServiceRegistrar) { workloadv1.RegisterWorkloadServer(r, svc) }, nil); err != nil {
		return err
	}
	if d.sockets, err = workload.NewSockets(d.workload, filepath.Join(d.home, "mnt")); err != nil {
		return err
	}
	if d.imageUses, err = imagegc.Open(filepath.Join(d.home, "gc"), part(d.Log, "imagegc")); err != nil {
		return err
	}
	if d.imagesKept, err = imagegc.OpenKept(filepath.Join(d.home, "gc"), part(d.Log, "imagegc")); err != nil {
		return err
	}
	d.manager = module.New(module.Options{
		Runtime: d.Runtime, Sockets: d.sockets, ImageUsed: d.imageUses.Used, Kept: d.kept,
		AllowElevated: cfg.AllowElevated, Log: part(d.Log, "module"),
	})
	svc.Modules = d.manager
	trial := cfg.Agent.Trial
	d.handover = handover.Open(handover.Options{
		Modules: d.manager, File: filepath.Join(d.home, "cache", "agent.json"), Bootstrap: d.agentSpec,
		LastWords: d.agentLastWords, Log: part(d.Log, "handover"),
		Trial: handover.Trial{Attempts: trial.Attempts, Settle: trial.SettleTime, Limit: trial.LimitTime},
	})
	d.management, err = d.server("management", management.Policy(), cfg.MaxRequests.Management, api.ManagementREST, d.manage(ctx),
		func(caller string) {
			if caller == module.Agent {
				d.handover.Asked()
			}
		})
	return err
}

// openRegistry makes the registry's client, unless one was given.
func (d *daemon) openRegistry() (err error) {
	if d.Registry != nil {
		return nil
	}
	cfg := d.Config
	d.Registry, err = newRegistry(registryOptions{
		Hub: cfg.Device.HubName, Host: cfg.Device.Gateway, Device: cfg.Device.DeviceID, Credential: d.credential,
		Roots: d.roots, Timeout: time.Duration(cfg.CloudTimeoutSec) * time.Second, Retries: cfg.CloudRetries,
		UserAgent: "edged/" + d.Version,
	})
	return err
}

// Trust returns the roots that the daemon trusts, those of the system and of the
// config's trust_bundle_cert, and the text of the latter.
func Trust(cfg config.Config) (*x509.CertPool, []byte, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, nil, fmt.Errorf("system roots: %w", err)
	}
	if cfg.TrustBundleCert == "" {
		return roots, nil, nil
	}
	certs, bundle, err := readCertificates(cfg.TrustBundleCert)
	if err != nil {
		return nil, nil, fmt.Errorf("trust bundle: %w", err)
	}
	for _, c := range certs {
		roots.AddCert(c)
	}
	return roots, bundle, nil
}

type restFunc = func(context.Context, api.Local) (http.Handler, error)

func (d *daemon) server(name string, p peer.Policy, limit int, rest restFunc, register func(grpc.ServiceRegistrar), allowed func(module string)) (*api.Server, error) {
	log := part(d.Log, name+"-api")
	return api.New(api.Options{
		Register: register, REST: rest, MaxRequests: limit, Log: log,
		Guard: &peer.Guard{Policy: p, Resolver: d.Resolver, AdminGroup: d.AdminGroup, Allowed: allowed, Log: log},
	})
}

// manage registers the management services; background bounds work that outlives
// its call.
func (d *daemon) manage(background context.Context) func(grpc.ServiceRegistrar) {
	log := part(d.Log, "management")
	return func(r grpc.ServiceRegistrar) {
		managementv1.RegisterModulesServer(r, &management.Modules{
			Manager: d.manager, Agent: d.handover, Kept: d.imagesKept, Observer: d.Runtime, Background: background, Log: log,
		})
		managementv1.RegisterIdentitiesServer(r, &management.Identities{Registrar: d.identities, Log: log})
		managementv1.RegisterSystemServer(r, &management.System{
			Observer: d.Runtime, Modules: d.manager, Version: d.Version, Started: d.started, Additional: d.Config.AdditionalInfo,
			DeviceID: d.Config.Device.DeviceID, HubName: d.Config.Device.HubName, Hostname: d.Config.Hostname,
			DynamicReprovisioning: d.Config.Reprovisioning == config.Dynamic, AlwaysReprovision: d.Config.Reprovisioning == config.AlwaysOnStartup,
			OnReprovision: d.reprovision, Extras: d.BundleExtras, Log: log,
		})
	}
}

// prepare opens the sockets and takes over modules that run on from an earlier daemon,
// unless something has changed that they would have to learn.
func (d *daemon) prepare(ctx context.Context) error {
	now, err := d.terms()
	if err != nil {
		return err
	}
	known := true
	if !d.lastTerms(ctx).hold(now, d.authority.Trusts) {
		d.Log.InfoContext(ctx, "device, configuration or trust are not those of the modules: stopping all")
		known = d.stopModules(ctx)
	}
	if err := d.checkProvisioning(ctx); err != nil {
		return err
	}
	if known { // else the next start tries again to stop them
		if err := d.saveTerms(now); err != nil {
			return err
		}
	}
	if err := d.listen(); err != nil {
		return err
	}
	return d.manager.TakeOver(ctx, func(module string) []string {
		return []string{d.workloadPath, d.managementPath, d.sockets.Path(module)}
	})
}

// serve runs until ctx ends (nil) or a part fails.
func (d *daemon) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		d.manager.Refuse()
		return nil
	})
	g.Go(func() error {
		return watchdog.Run(ctx, watchdog.Options{
			Modules: d.manager, Events: d.Runtime, Spec: d.agentSpec, Handover: d.handover,
			MaxRetries: d.Config.Watchdog.MaxRetries, Log: part(d.Log, "watchdog"),
		})
	})
	if gc := d.Config.ImageGC; gc.Enabled {
		g.Go(func() error {
			return imagegc.Run(ctx, imagegc.Options{
				Uses: d.imageUses, Kept: d.kept, Engine: d.Runtime, Agent: d.Config.Agent.Config.Image,
				Days: gc.Days, Hour: gc.Hour, Minute: gc.Minute, Location: time.Local,
				MinAge: gc.MinAge, Log: part(d.Log, "imagegc"),
			})
		})
	}
	for _, run := range d.renewals() {
		g.Go(func() error { return run(ctx) })
	}
	if d.Config.Provisioning.Source == "dps" {
		g.Go(func() error { return d.watchDoubts(ctx) })
	}
	if d.Supervise != nil {
		g.Go(func() error { return d.Supervise(ctx, d.alive) })
	}
	dev := d.Config.Device
	d.Log.InfoContext(ctx, "edged is ready", "device", dev.DeviceID, "hub", dev.HubName)
	d.status("device " + dev.DeviceID + " of " + dev.HubName)
	if d.Ready != nil {
		d.Ready()
	}
	return g.Wait()
}

// stopModules stops all modules, and tells whether it has. Why not is logged.
func (d *daemon) stopModules(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, module.StopAllTimeout+5*time.Second)
	defer cancel()
	if err := d.manager.StopAll(ctx); err != nil {
		d.Log.WarnContext(ctx, "stop modules", "error", err)
		return false
	}
	return true
}

func (d *daemon) status(text string) {
	if d.Status != nil {
		d.Status(text)
	}
}

func part(log *slog.Logger, name string) *slog.Logger { return log.With("part", name) }
