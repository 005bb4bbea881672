package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// In the original keys, certificates, TPM and identities are services of their own;
// here each of the checks "running" asks the daemon for what that service is for.

func keysRunning(ctx context.Context, s *state) Outcome {
	if _, err := s.daemon(ctx); err != nil {
		return failed("the daemon does not answer: %v", err)
	}
	return ok()
}

func certsRunning(ctx context.Context, s *state) Outcome {
	if err := s.Workload(ctx, *s.cfg); err != nil {
		return failed("trust bundle at %s: %v", s.cfg.Connect.Workload, err)
	}
	return ok()
}

func tpmRunning(ctx context.Context, s *state) Outcome {
	if !s.cfg.TPM.Needed {
		return skipped("nothing is in a TPM")
	}
	if err := s.TPM(ctx, *s.cfg); err != nil {
		return failed("%s: %v", s.cfg.TPM.TCTI, err)
	}
	return ok()
}

func identityRunning(ctx context.Context, s *state) Outcome {
	info, err := s.daemon(ctx)
	switch {
	case err != nil:
		return failed("the daemon does not answer: %v", err)
	case info.DeviceID == "":
		return failed("the daemon does not know its device")
	case s.cfg.Device.DeviceID != "" && (info.DeviceID != s.cfg.Device.DeviceID || info.HubName != s.cfg.Device.HubName):
		return warning("the daemon is device %q of %s, the configuration names %q of %s: edgectl config apply",
			info.DeviceID, info.HubName, s.cfg.Device.DeviceID, s.cfg.Device.HubName)
	}
	return Outcome{OK, []string{"device " + info.DeviceID + " of " + info.HubName}}
}

// applied looks whether the operator's file is what the daemon was handed.
func applied(_ context.Context, s *state) Outcome {
	same, err := s.Applied()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return skipped("nothing was applied: the daemon reads this file itself")
	case err != nil:
		return failed("applied configuration: %v", err)
	case !same:
		return warning("the configuration file differs from what was applied: edgectl config apply")
	}
	return ok()
}

func ownVersion(_ context.Context, s *state) Outcome {
	if s.ExpectedAziot != "" && s.ExpectedAziot != s.Version {
		return warning("edgectl is of version %s, expected is %s", s.Version, s.ExpectedAziot)
	}
	return Outcome{OK, []string{"version " + s.Version}}
}

func daemonVersion(ctx context.Context, s *state) Outcome {
	info, err := s.daemon(ctx)
	if err != nil {
		return failed("the daemon does not answer: %v", err)
	}
	if s.ExpectedEdged != "" && s.ExpectedEdged != info.Version {
		return warning("the daemon is of version %s, expected is %s", info.Version, s.ExpectedEdged)
	}
	installed, err := s.Installed(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return warning("version of the installed daemon: %v", err)
	}
	if err == nil && installed != info.Version {
		return warning("the daemon runs in version %s, installed is %s: edgectl system restart", info.Version, installed)
	}
	if s.ExpectedEdged == "" && s.Version != info.Version {
		return warning("the daemon is of version %s, edgectl of %s", info.Version, s.Version)
	}
	return Outcome{OK, []string{"version " + info.Version}}
}

// moduleTime is the clock of the host: Linux gives a container no other one.
func moduleTime(ctx context.Context, s *state) Outcome {
	out := localTime(ctx, s)
	if out.Result == OK {
		out.Details = []string{"modules share the clock of the host"}
	}
	return out
}

func dns(_ context.Context, s *state) Outcome {
	servers, err := s.Nameservers()
	if err != nil {
		return failed("%v", err)
	}
	if len(servers) == 0 {
		return warning("modules have no name server: /etc/resolv.conf has none that can be reached from their network")
	}
	var names []string
	for _, a := range servers {
		names = append(names, a.String())
	}
	return Outcome{OK, []string{strings.Join(names, ", ")}}
}

// muchLog is what a module's log may take before it is worth a warning; the default
// bound is 30 MiB.
const muchLog = 256 << 20

func logRotate(_ context.Context, s *state) Outcome {
	sizes, err := s.LogSizes(*s.cfg)
	if err != nil {
		return failed("logs of modules: %v", err)
	}
	out := ok()
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		if n := sizes[name]; n > muchLog {
			out.Result = Warning
			out.Details = append(out.Details, fmt.Sprintf("the log of %s takes %d MiB: max-size and max-file of its LogConfig are large", name, n>>20))
		}
	}
	return out
}

// storage looks where a module of the runtime keeps what must survive it.
func storage(module string) func(context.Context, *state) Outcome {
	return func(ctx context.Context, s *state) Outcome {
		path, mounted, err := s.Storage(ctx, *s.cfg, module)
		switch {
		case errors.Is(err, ErrNoModule):
			return skipped("%s does not run", module)
		case err != nil:
			return failed("%s: %v", module, err)
		case !mounted:
			return warning("%s keeps its data in %s inside of its container, and loses it when that is made anew: bind a folder of the host, and set storageFolder", module, path)
		}
		return Outcome{OK, []string{path}}
	}
}

func agentImage(_ context.Context, s *state) Outcome {
	image := s.cfg.Agent.Config.Image
	if _, digest, _ := strings.Cut(image, "@"); digest != "" {
		return Outcome{OK, []string{image}}
	}
	name := image[strings.LastIndexByte(image, '/')+1:]
	_, tag, _ := strings.Cut(name, ":")
	if tag == "" || tag == "latest" {
		return warning("agent.config.image %s has no tag that stands for a version: the next pull may bring another one", image)
	}
	return Outcome{OK, []string{image}}
}

// proxies compares the proxy of the daemon, which pulls images and registers the
// device, with that of the agent, which talks to the hub.
func proxies(ctx context.Context, s *state) Outcome {
	env, err := s.ServiceEnv(ctx)
	if errors.Is(err, ErrNoService) {
		return skipped("%v", err)
	}
	if err != nil {
		return failed("environment of the daemon: %v", err)
	}
	daemon, agent := proxyOf(env), proxyOf(s.cfg.Agent.Env)
	if daemon == agent {
		return ok()
	}
	// A proxy's URL may hold a password.
	switch {
	case daemon == "":
		return warning("agent.env sets https_proxy, the daemon has none: set it in /etc/aziot/edged/environment")
	case agent == "":
		return warning("the daemon has an https_proxy, agent.env sets none")
	}
	return warning("https_proxy of the daemon differs from that of agent.env")
}

func proxyOf(env map[string]string) string {
	if p := env["https_proxy"]; p != "" {
		return p
	}
	return env["HTTPS_PROXY"]
}
