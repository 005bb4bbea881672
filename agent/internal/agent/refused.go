package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
)

// refusedPause lies between two questions that follow a refusal by the hub.
const refusedPause = 5 * time.Minute

// registry is what asks the cloud with the device's own credentials; *edged.Client does.
type registry interface {
	Identities(ctx context.Context) ([]launch.Identity, error)
}

// askWhenRefused asks for the device's identities when the hub has refused the agent's
// credentials, until ctx ends. The answer does not matter: it is the daemon that has to
// learn whether the device is refused as well, for then it registers with the
// provisioning service again, which is all that helps a device that was moved to another
// hub. The original asks the daemon to reprovision outright (spec edgeagent 8), which
// removes all modules for a refusal that may pass.
func askWhenRefused(ctx context.Context, refused <-chan struct{}, r registry, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-refused:
		}
		_, err := r.Identities(ctx)
		log.Warn("the hub has refused the agent; the daemon was made to ask it, too", "answer", err)
		timer := time.NewTimer(refusedPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}
