// Package check finds out what is wrong with a device (spec security-daemon 13.1):
// a list of named checks that look and change nothing, and their results as text
// or JSON. What they look at comes through Probes, so that tests can say.
package check

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
)

// Result is what became of a check.
type Result string

// The results, by the words of the JSON form.
const (
	OK      Result = "ok"
	Warning Result = "warning"
	Ignored Result = "ignored" // by --dont-run
	Skipped Result = "skipped" // because of another check's result, or nothing to look at
	Fatal   Result = "fatal"   // an error that leaves the others nothing to look at
	Error   Result = "error"
)

// Outcome is a result and why.
type Outcome struct {
	Result  Result
	Details []string
}

func ok() Outcome { return Outcome{Result: OK} }

func failed(format string, args ...any) Outcome {
	return Outcome{Error, []string{fmt.Sprintf(format, args...)}}
}

func warning(format string, args ...any) Outcome {
	return Outcome{Warning, []string{fmt.Sprintf(format, args...)}}
}

func skipped(format string, args ...any) Outcome {
	return Outcome{Skipped, []string{fmt.Sprintf(format, args...)}}
}

// Check is one thing to look at.
type Check struct {
	ID, Group string
	// Name says in words what is well when the check passes.
	Name string
	run  func(context.Context, *state) Outcome
	// part is the part of the configuration that it looks at, and nothing else: it
	// runs without a configuration too.
	part string
}

// The groups, in order.
const (
	Identity      = "Configuration checks (identity, keys, certificates)"
	Configuration = "Configuration checks"
	Connectivity  = "Connectivity checks"
)

// Certificate is one that the daemon uses, with the file that it is in.
type Certificate struct {
	File string
	*x509.Certificate
}

// ErrNoModule says that no module runs in whose network one could look.
var ErrNoModule = errors.New("no module runs in the module network")

// ErrNoService says that the daemon is not run by a service manager that could tell
// about it.
var ErrNoService = errors.New("the daemon is not run by systemd")

// Probes look at the device. All are needed.
type Probes struct {
	Now func() time.Time
	// Config returns the configuration; what is wrong in it as joined *config.Error.
	Config func() (config.Config, error)
	// Applied compares the configuration with what edgectl config apply has handed to
	// the daemon: fs.ErrNotExist if there is none.
	Applied  func() (same bool, err error)
	Hostname func() (string, error)
	// ConfigChanged is when the config file was written last.
	ConfigChanged func() (time.Time, error)
	// Installed is the version of the daemon's program; fs.ErrNotExist if it is
	// elsewhere.
	Installed func(context.Context) (string, error)
	// Info asks the daemon by its management socket.
	Info func(context.Context, config.Config) (Info, error)
	// Workload asks the daemon for the trust bundle, as modules do.
	Workload func(context.Context, config.Config) error
	// TPM talks to the TPM.
	TPM func(context.Context, config.Config) error
	// Preloaded reads the certificates that the configuration names, KeyFiles their
	// keys.
	Preloaded, KeyFiles func(context.Context, config.Config) error
	// Nameservers are those of modules.
	Nameservers func() ([]netip.Addr, error)
	// HostIPv6 fails if the host cannot have a module network with IPv6.
	HostIPv6 func() error
	// Network is how the module network is made now; fs.ErrNotExist if it was not yet.
	Network func(config.Config) (network.Shape, error)
	// LinkAddrs are the addresses of an interface of the host; none if it is not there.
	LinkAddrs func(name string) ([]netip.Addr, error)
	// LogSizes are the bytes of each module's log.
	LogSizes func(config.Config) (map[string]int64, error)
	// Storage tells where a running module keeps its data, and whether that is a
	// mount of the host (ErrNoModule if it does not run).
	Storage func(ctx context.Context, cfg config.Config, module string) (path string, mounted bool, err error)
	// ServiceEnv is the environment of the daemon's process; ErrNoService if no service
	// manager tells.
	ServiceEnv func(context.Context) (map[string]string, error)
	// Engine returns containerd's version.
	Engine func(context.Context, config.Config) (string, error)
	// Plugins fails when a network plugin is missing.
	Plugins func(config.Config) error
	// Uptime asks the daemon by its management socket how long it has run.
	Uptime func(context.Context, config.Config) (time.Duration, error)
	// EdgeCA, TrustBundle, Identity, EST and LocalCA read certificates. Those that the
	// daemon gets from an issuer may be missing: fs.ErrNotExist.
	EdgeCA, TrustBundle, Identity, EST, LocalCA func(config.Config) ([]Certificate, error)
	// Pairs tells for every certificate in files whether its key belongs to it.
	Pairs func(context.Context, config.Config) error
	// ClockOffset is how far a time server's clock is ahead.
	ClockOffset func(ctx context.Context, server string) (time.Duration, error)
	// HostConnect opens a TLS connection from the host, ModuleConnect from the
	// module network, as one of its modules (ErrNoModule if none runs there), and
	// SharedConnect as a module that shares the host's network (ErrNoModule).
	HostConnect, ModuleConnect, SharedConnect func(ctx context.Context, cfg config.Config, host string, port int) error
	// HostResolve and ModuleResolve find the addresses of a name, as the host and as a
	// module in the module network (ErrNoModule).
	HostResolve   func(ctx context.Context, host string) ([]netip.Addr, error)
	ModuleResolve func(ctx context.Context, cfg config.Config, host string) ([]netip.Addr, error)
	// ESTConnect is HostConnect with the roots for EST servers.
	ESTConnect func(ctx context.Context, cfg config.Config, host string, port int) error
}

// Info is what the daemon tells of itself.
type Info struct{ Version, DeviceID, HubName string }

// Options say which checks to run.
type Options struct {
	Probes
	// DontRun are ids to leave out.
	DontRun []string
	// HubName replaces the hub to connect to.
	HubName string
	// TimeServer is host:port.
	TimeServer string
	// Version is that of the program that checks.
	Version string
	// ExpectedAziot and ExpectedEdged are the versions that should be there; empty for
	// no expectation, or for Version.
	ExpectedAziot, ExpectedEdged string
}

// Done is a check that was run, or was not.
type Done struct {
	Check
	Outcome
}

// DefaultTimeServer is that of the original.
const DefaultTimeServer = "pool.ntp.org:123"

// timeout bounds one check.
const timeout = 20 * time.Second

// Run runs all checks, one after the other, and calls each with every one that is
// done. It fails for unknown ids and when ctx ends.
func Run(ctx context.Context, o Options, each func(Done)) error {
	all := List()
	for _, id := range o.DontRun {
		if !slices.ContainsFunc(all, func(c Check) bool { return c.ID == id }) {
			return fmt.Errorf("no check %q; see check-list", id)
		}
	}
	s := &state{Options: o}
	s.load()
	for _, c := range all {
		var out Outcome
		switch {
		case slices.Contains(o.DontRun, c.ID):
			out = Outcome{Ignored, []string{"left out on request"}}
		case c.part == "" && s.cfg == nil:
			out = skipped("not run, because the configuration is not well-formed")
		default:
			within, cancel := context.WithTimeout(ctx, timeout)
			out = c.run(within, s)
			cancel()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		each(Done{c, out})
	}
	return nil
}

// state is what checks know of each other.
type state struct {
	Options
	// cfg is nil if the configuration cannot be used; wrong is what is wrong in each of
	// its parts then.
	cfg   *config.Config
	wrong map[string][]string

	info  *answer[Info]
	clock *answer[time.Duration]
}

// answer is remembered for the checks that ask for the same.
type answer[T any] struct {
	value T
	err   error
}

// daemon asks the daemon, once.
func (s *state) daemon(ctx context.Context) (Info, error) {
	if s.info == nil {
		info, err := s.Info(ctx, *s.cfg)
		s.info = &answer[Info]{info, err}
	}
	return s.info.value, s.info.err
}

// offset asks the time server, once.
func (s *state) offset(ctx context.Context) (time.Duration, error) {
	if s.clock == nil {
		d, err := s.ClockOffset(ctx, s.TimeServer)
		s.clock = &answer[time.Duration]{d, err}
	}
	return s.clock.value, s.clock.err
}

func (s *state) hub() string {
	if s.HubName != "" {
		return s.HubName
	}
	return s.cfg.Device.Gateway // empty until the device is provisioned
}
