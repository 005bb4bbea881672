// Package registry is the identity registry of the local hub: devices, modules,
// their credentials, etags, edge capability and parent-child relations (spec
// iothub-service 2.1, 3, 4). The twins of identities come and go with them.
//
// All identities are in memory; a write is on disk before it is visible. Writes
// follow one another, reads never wait for a disk.
package registry
