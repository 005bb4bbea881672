// Package handover replaces the agent, and takes that back when the new one is no
// good: a device whose agent cannot run can be reached by nobody.
//
//	            image is here        asks for work, and goes on
//	Settled ──────────► Switching ──► Trial ──────────► Settled
//	 (old)                 (new)      (new)              (new)
//	   ▲                     └──────────┴─► Returning
//	   └─────────────────────────────────────┘ (old)
//
// The state is on disk before anything is stopped, so that an end of the daemon or of
// the machine leads to one agent or the other. What was taken back is refused until
// the deployment asks for something else. Neither needs the cloud or a registry.
package handover
