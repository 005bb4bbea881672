// Package reconcile is the agent's loop: it compares the deployment that is wanted
// with the modules that run, changes what differs, and reports the outcome (spec
// edgeagent 6). One goroutine, the caller of Run, owns all of its state.
//
// A cycle begins five seconds after the last one ended, at once when the twin
// changes and when a module's back-off is over, and within a second when the daemon
// tells of a module that changed.
//
// Two points differ from the original on purpose. While the twin holds a manifest
// that must be refused, the last good one is still enforced, so that crashed
// modules come back. And what a container was made from is remembered per module,
// so that an update that failed half-way is not mistaken for one that was done.
package reconcile
