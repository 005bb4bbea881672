package check

import (
	"context"
	"errors"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
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
		return s.fromModules(ctx, s.ModuleConnect, port)
	}
}

// fromModules connects to what is above the device with the eyes of a module.
func (s *state) fromModules(ctx context.Context, connect func(context.Context, config.Config, string, int) error, port int) Outcome {
	if s.hub() == "" {
		return skipped(unprovisioned)
	}
	err := connect(ctx, *s.cfg, s.hub(), port)
	if errors.Is(err, ErrNoModule) {
		return skipped("%v", err)
	}
	if err != nil {
		return failed("%s port %d: %v", s.hub(), port, err)
	}
	return ok()
}

// fromDefault is the original's look from the engine's own network. The network besides
// the module network that a module can have here is the host's.
func fromDefault(port int) func(context.Context, *state) Outcome {
	return func(ctx context.Context, s *state) Outcome {
		out := s.fromModules(ctx, s.SharedConnect, port)
		if out.Result == Skipped && s.hub() != "" {
			return skipped("no module shares the network of the host, the only one besides the module network")
		}
		return out
	}
}
