package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

const configID = "aziot-edged-config-well-formed"

// List returns all checks, in order. Ids that the original has mean the same.
func List() []Check {
	return []Check{
		{configID, Configuration, "configuration file is well-formed", configWellFormed},
		{"config-up-to-date", Configuration, "daemon runs with the configuration file as it is now", configUpToDate},
		{"hostname", Configuration, "hostname of the configuration is correct", hostname},
		{"container-engine-uri", Configuration, "containerd answers", engine},
		{"cni-plugins", Configuration, "network plugins are installed", plugins},
		{"connect-management-uri", Configuration, "daemon answers at its management socket", management},
		{"host-local-time", Configuration, "clock of the device is right", localTime},
		{"identity-certificate-expiry", Configuration, "identity certificate is valid", identityCertificate},
		{"est-identity-and-bootstrap-certificate-expiry", Configuration, "certificates for the EST server are valid", estCertificates},
		{"local-ca-certificate-expiry", Configuration, "local CA certificate is valid", localCA},
		{"edge-ca-certificate-expiry", Configuration, "edge CA certificate is valid", edgeCA},
		{"certs-read", Configuration, "trust bundle can be read and is valid", trustBundle},
		{"certs-match-private-keys", Configuration, "certificates match their keys", pairs},
		{"host-connect-dps-endpoint", Connectivity, "host can connect to the provisioning service", fromHostToDPS},
		{"host-connect-iothub-https", Connectivity, "host can connect to the hub at port 443", fromHost(443)},
		{"host-connect-iothub-mqtt", Connectivity, "host can connect to the hub at port 8883", fromHost(8883)},
		{"container-connect-upstream-https", Connectivity, "module network can connect to the hub at port 443", fromModule(443)},
		{"container-connect-upstream-mqtt", Connectivity, "module network can connect to the hub at port 8883", fromModule(8883)},
	}
}

func configWellFormed(_ context.Context, s *state) Outcome {
	cfg, err := s.Config()
	if err != nil {
		return Outcome{Fatal, lines(err)}
	}
	s.cfg = &cfg
	return ok()
}

// lines takes a joined error apart.
func lines(err error) []string {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range joined.Unwrap() {
		out = append(out, e.Error())
	}
	return out
}

func configUpToDate(ctx context.Context, s *state) Outcome {
	changed, err := s.ConfigChanged()
	if err != nil {
		return failed("configuration file: %v", err)
	}
	up, err := s.Uptime(ctx, *s.cfg)
	if err != nil {
		return skipped("the daemon does not answer")
	}
	if started := s.Now().Add(-up); changed.After(started) {
		return warning("the configuration file was changed at %s, after the daemon was started: restart edged",
			changed.UTC().Format(time.RFC3339))
	}
	return ok()
}

// maxCommonName is the longest name that a certificate can have.
const maxCommonName = 64

func hostname(_ context.Context, s *state) Outcome {
	name := s.cfg.Hostname
	if len(name) > maxCommonName {
		return failed("hostname %q is longer than the %d characters that a certificate's name may have", name, maxCommonName)
	}
	machine, err := s.Hostname()
	if err != nil {
		return failed("name of the machine: %v", err)
	}
	if !sameHost(name, machine) {
		return warning("hostname is %q, the machine's name %q: devices that connect to this one must be able to resolve the former", name, machine)
	}
	return ok()
}

func engine(ctx context.Context, s *state) Outcome {
	version, err := s.Engine(ctx, *s.cfg)
	if err != nil {
		return failed("containerd at %s: %v", s.cfg.Containerd.Address, err)
	}
	return Outcome{OK, []string{"containerd " + version}}
}

func plugins(_ context.Context, s *state) Outcome {
	if err := s.Plugins(*s.cfg); err != nil {
		return failed("%v", err)
	}
	return ok()
}

func management(ctx context.Context, s *state) Outcome {
	up, err := s.Uptime(ctx, *s.cfg)
	if err != nil {
		return failed("%s: %v", s.cfg.Listen.Management, err)
	}
	return Outcome{OK, []string{"up for " + up.Round(time.Second).String()}}
}

// maxDrift is when a clock is wrong: tokens and certificates may then be refused.
const maxDrift = 10 * time.Second

func localTime(ctx context.Context, s *state) Outcome {
	offset, err := s.ClockOffset(ctx, s.TimeServer)
	if err != nil {
		return warning("time server %s: %v", s.TimeServer, err)
	}
	if offset.Abs() >= maxDrift {
		return failed("clock differs from that of %s by %v", s.TimeServer, offset.Round(time.Millisecond))
	}
	return ok()
}

// soon is when the end of a certificate is worth a warning.
const soon = 7 * 24 * time.Hour

func edgeCA(_ context.Context, s *state) Outcome {
	certs, err := s.EdgeCA(*s.cfg)
	if errors.Is(err, fs.ErrNotExist) && s.cfg.EdgeCA.KeyPair.Cert == "" {
		if s.cfg.EdgeCA.Method == config.SelfSigned {
			return skipped("the daemon has not made an edge CA yet")
		}
		return failed("no edge CA has been issued yet: modules get no certificates")
	}
	if err != nil {
		return failed("edge CA: %v", err)
	}
	return s.expiry(certs, "edge CA certificate")
}

func identityCertificate(_ context.Context, s *state) Outcome {
	if s.cfg.Identity.Method != config.X509 {
		return skipped("the device does not authenticate with a certificate")
	}
	certs, err := s.Identity(*s.cfg)
	if errors.Is(err, fs.ErrNotExist) && s.cfg.Identity.Issue.Method != "" {
		return failed("no identity certificate has been issued yet")
	}
	if err != nil {
		return failed("identity certificate: %v", err)
	}
	return s.expiry(certs[:min(1, len(certs))], "identity certificate")
}

func estCertificates(_ context.Context, s *state) Outcome {
	certs, err := s.EST(*s.cfg)
	if err != nil {
		return failed("certificate for the EST server: %v", err)
	}
	if len(certs) == 0 {
		return skipped("no certificate is used to get others")
	}
	return s.expiry(certs, "certificate for the EST server")
}

func localCA(_ context.Context, s *state) Outcome {
	if s.cfg.Issuance.LocalCA.Cert == "" {
		return skipped("no local CA is configured")
	}
	certs, err := s.LocalCA(*s.cfg)
	if err != nil {
		return failed("local CA: %v", err)
	}
	return s.expiry(certs, "local CA certificate")
}

func pairs(ctx context.Context, s *state) Outcome {
	if err := s.Pairs(ctx, *s.cfg); err != nil {
		return Outcome{Error, lines(err)}
	}
	return ok()
}

func trustBundle(_ context.Context, s *state) Outcome {
	if s.cfg.TrustBundleCert == "" {
		return skipped("no trust_bundle_cert is configured")
	}
	certs, err := s.TrustBundle(*s.cfg)
	if err != nil {
		return failed("trust bundle: %v", err)
	}
	return s.expiry(certs, "trust bundle certificate")
}

// expiry looks at the times of certificates; the worst counts.
func (s *state) expiry(certs []Certificate, what string) Outcome {
	if len(certs) == 0 {
		return failed("no certificate found")
	}
	out := ok()
	now := s.Now()
	for _, c := range certs {
		name := fmt.Sprintf("%s %q in %s", what, c.Subject.CommonName, c.File)
		end := c.NotAfter.UTC().Format(time.RFC3339)
		switch {
		case now.Before(c.NotBefore):
			out.Result = Error
			out.Details = append(out.Details, name+" is not valid before "+c.NotBefore.UTC().Format(time.RFC3339))
		case now.After(c.NotAfter):
			out.Result = Error
			out.Details = append(out.Details, name+" has expired at "+end)
		case now.Add(soon).After(c.NotAfter):
			if out.Result == OK {
				out.Result = Warning
			}
			out.Details = append(out.Details, name+" expires at "+end)
		}
	}
	return out
}

func fromHostToDPS(ctx context.Context, s *state) Outcome {
	p := s.cfg.Provisioning
	if p.Source != "dps" {
		return skipped("the device is provisioned by hand")
	}
	u, err := url.Parse(p.GlobalEndpoint)
	if err != nil {
		return failed("%v", err)
	}
	port := 443
	if text := u.Port(); text != "" {
		if port, err = strconv.Atoi(text); err != nil {
			return failed("%s: %v", p.GlobalEndpoint, err)
		}
	}
	if err := s.HostConnect(ctx, *s.cfg, u.Hostname(), port); err != nil {
		return failed("%s port %d: %v", u.Hostname(), port, err)
	}
	return ok()
}

// unprovisioned is why nothing can be said of the hub.
const unprovisioned = "the device is not provisioned yet"

func fromHost(port int) func(context.Context, *state) Outcome {
	return func(ctx context.Context, s *state) Outcome {
		if s.hub() == "" {
			return skipped(unprovisioned)
		}
		if err := s.HostConnect(ctx, *s.cfg, s.hub(), port); err != nil {
			return failed("%s port %d: %v", s.hub(), port, err)
		}
		return ok()
	}
}

func fromModule(port int) func(context.Context, *state) Outcome {
	return func(ctx context.Context, s *state) Outcome {
		if s.hub() == "" {
			return skipped(unprovisioned)
		}
		err := s.ModuleConnect(ctx, *s.cfg, s.hub(), port)
		if errors.Is(err, ErrNoModule) {
			return skipped("%v", err)
		}
		if err != nil {
			return failed("%s port %d: %v", s.hub(), port, err)
		}
		return ok()
	}
}
