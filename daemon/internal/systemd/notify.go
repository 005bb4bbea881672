package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells the service manager how the daemon is (sd_notify). What cannot be
// told is logged, and changes nothing.
type Notifier struct {
	log *slog.Logger
	// every is the service watchdog's patience, 0 if it is off.
	every time.Duration
}

// NewNotifier reads what the service manager wants to know: NOTIFY_SOCKET,
// WATCHDOG_USEC and WATCHDOG_PID.
func NewNotifier(log *slog.Logger) (*Notifier, error) {
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("service watchdog: %w", err)
	}
	return &Notifier{log: log, every: every}, nil
}

// Status tells people in one line what the daemon does.
func (n *Notifier) Status(text string) { n.send("STATUS=" + text) }

// Ready ends the start.
func (n *Notifier) Ready() { n.send(sd.SdNotifyReady) }

// Stopping begins the end, however it came; the service watchdog ends with it.
func (n *Notifier) Stopping() { n.send(sd.SdNotifyStopping + "\nSTATUS=stopping modules") }

// Watch keeps the service watchdog quiet for as long as alive succeeds, and returns
// nil when ctx ends. alive is called twice in the watchdog's time and must answer
// within the half of it; without an answer the service manager ends the daemon and
// starts it again.
func (n *Notifier) Watch(ctx context.Context, alive func(context.Context) error) error {
	if n.every == 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(n.every / 2)
	defer ticker.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, n.every/2)
		err := alive(within)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			n.log.ErrorContext(ctx, "the daemon does not answer itself", "error", err)
		default:
			n.send(sd.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (n *Notifier) send(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		n.log.Warn("notify the service manager", "error", err)
	}
}
