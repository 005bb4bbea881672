package daemon

import (
	"context"
	"log/slog"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// RegistryOptions and NewRegistry are the client of the cloud's registry.
type RegistryOptions = registryOptions

// NewRegistry makes the client.
var NewRegistry = newRegistry

// RenewCA runs the renewal loop alone.
func RenewCA(ctx context.Context, home string, a *pki.Authority, m *module.Manager, log *slog.Logger) error {
	return (&daemon{Options: Options{Log: log}, home: home, authority: a, manager: m}).renewCA(ctx)
}

// AgentLastWords is the end of the agent's log.
func AgentLastWords(ctx context.Context, r runtime.Runtime) string {
	return (&daemon{Options: Options{Runtime: r}}).agentLastWords(ctx)
}
