package module

import "github.com/breakwater-iot/breakwater/daemon/internal/runtime"

// StatusWord returns the API's word for a module's state (spec security-daemon
// 4.1): running, stopped, failed or unknown.
func StatusWord(s runtime.State) string {
	switch s.Status {
	case runtime.StatusRunning:
		return "running"
	case runtime.StatusCreated, runtime.StatusPaused:
		return "stopped"
	case runtime.StatusExited:
		if s.ExitCode != 0 {
			return "failed"
		}
		return "stopped"
	}
	return "unknown"
}
