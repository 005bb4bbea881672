// Package server runs the local hub as a process: data directory, certificates,
// policies, store, listeners, and an orderly start and end.
//
// The data directory, which nobody else may read:
//
//	root.pem root.key            root that clients trust
//	server.pem server.key        certificate of the listeners
//	policies.json                keys of the shared access policies
//	iothubowner.connectionstring login of the owner, for the subcommands
//	db/                          identities, twins, events, subscriptions
package server
