// Package edged speaks to the security daemon by gRPC: modules, identities and
// host information on the management socket, encryption and the trust bundle on
// the agent's workload socket.
//
// A refused connection means that the daemon was restarted and left a dead socket
// in this container. There is no way back to it from inside; Gone tells so, and
// the process is expected to end, to be started again with fresh sockets (spec
// edgeagent 6.9).
package edged
