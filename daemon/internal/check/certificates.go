package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

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
	ca := s.cfg.Issuance.LocalCA
	if ca.Cert == "" && ca.Issue.Method == "" {
		return skipped("no local CA is configured")
	}
	certs, err := s.LocalCA(*s.cfg)
	if errors.Is(err, fs.ErrNotExist) && ca.Cert == "" {
		return failed("no local CA has been issued yet: it issues no certificates")
	}
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

func preloaded(ctx context.Context, s *state) Outcome {
	if err := s.Preloaded(ctx, *s.cfg); err != nil {
		return Outcome{Error, lines(err)}
	}
	return ok()
}

func keyFiles(ctx context.Context, s *state) Outcome {
	if err := s.KeyFiles(ctx, *s.cfg); err != nil {
		return Outcome{Error, lines(err)}
	}
	return ok()
}

// estServer connects to every EST server that the configuration names.
func estServer(ctx context.Context, s *state) Outcome {
	var urls []string
	for _, i := range []config.Issue{s.cfg.Identity.Issue, s.cfg.EdgeCA.Issue, s.cfg.Issuance.LocalCA.Issue} {
		if i.Method == config.EST && !slices.Contains(urls, i.URL) {
			urls = append(urls, i.URL)
		}
	}
	if len(urls) == 0 {
		return skipped("no certificate comes from an EST server")
	}
	out := ok()
	for _, text := range urls {
		host, port, err := hostPort(text)
		if err == nil {
			err = s.ESTConnect(ctx, *s.cfg, host, port)
		}
		if err != nil {
			out.Result = Error
			out.Details = append(out.Details, fmt.Sprintf("%s: %v", text, err))
		}
	}
	return out
}

// hostPort returns the server of an https URL.
func hostPort(text string) (string, int, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", 0, err
	}
	if u.Port() == "" {
		return u.Hostname(), 443, nil
	}
	port, err := strconv.Atoi(u.Port())
	return u.Hostname(), port, err
}
