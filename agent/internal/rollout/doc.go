// Package rollout decides which of two deployments is enforced while a safe
// deployment is under way: the one before or the new one, never a mixture.
//
//	            all images are here          healthy
//	Pulling ───────────────────────► Trial ──────────► Accepted
//	 (old)                           (new)               (new)
//	   │                               │ not in time
//	   └───────────────────────────────┴──────────────► Returned
//	     can never be                                     (old)
//
// Another manifest leads back to Pulling, or out of it all when it does not ask for
// safety. State is pure and is kept on disk; Watch judges the modules of a trial and
// lives as long as the process.
package rollout
