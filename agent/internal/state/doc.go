// Package state keeps what the agent must remember across restarts, in one folder
// (spec edgeagent 7):
//
//	taken.json     sealed: the deployment last taken over, and what each container was made from
//	restarts.json  restart counts and times by module; nothing secret
//	backup.json    sealed: the desired section last received in valid form, for a start without cloud
//
// Sealed files are an envelope {"iv","sealed"} around what the workload API's
// Encrypt made. Each write takes a fresh initialization vector and keeps it in the
// same file: a vector that is reused would weaken the cipher, and one in a file of
// its own could be left behind by a crash between two writes.
//
// Files appear by rename after fsync, so that a crash leaves the old or the new
// content. A Store may be used by several goroutines.
package state
