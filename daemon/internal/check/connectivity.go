package check

import (
	"context"
	"errors"
)

func fromHostToDPS(ctx context.Context, s *state) Outcome {
	p := s.cfg.Provisioning
	if p.Source != "dps" {
		return skipped("the device is provisioned by hand")
	}
	host, port, err := hostPort(p.GlobalEndpoint)
	if err != nil {
		return failed("%s: %v", p.GlobalEndpoint, err)
	}
	if err := s.HostConnect(ctx, *s.cfg, host, port); err != nil {
		return failed("%s port %d: %v", host, port, err)
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

// fromDefault is the original's look from the engine's own network, which modules
// have here only if they share that of the host.
func fromDefault(context.Context, *state) Outcome {
	return skipped("there is no network for modules besides the module network and the host's")
}
