package check

import (
	"context"
	"errors"
	"net/netip"
)

const noParent = "the device is below no other"

// parentName looks whether the parent's certificate can be for the name by which this
// device knows it. That the name is one, and not the device's own, the configuration
// sees to.
func parentName(ctx context.Context, s *state) Outcome {
	parent := s.cfg.ParentHostname
	if parent == "" {
		return skipped(noParent)
	}
	if len(parent) > maxCommonName {
		return failed("parent_hostname %q is longer than the %d characters that a certificate's name may have", parent, maxCommonName)
	}
	addrs, err := s.HostResolve(ctx, parent)
	if err != nil {
		return failed("parent_hostname: %v", err)
	}
	return Outcome{OK, texts(addrs)}
}

// parentResolves looks from a module: it has name servers and a hosts file of its own.
func parentResolves(ctx context.Context, s *state) Outcome {
	parent := s.cfg.ParentHostname
	if parent == "" {
		return skipped(noParent)
	}
	addrs, err := s.ModuleResolve(ctx, *s.cfg, parent)
	if errors.Is(err, ErrNoModule) {
		return skipped("%v", err)
	}
	if err != nil {
		return failed("parent_hostname: %v", err)
	}
	return Outcome{OK, texts(addrs)}
}

func texts(addrs []netip.Addr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}
