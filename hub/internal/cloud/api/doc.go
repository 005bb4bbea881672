// Package api serves the HTTPS side of the local hub: registry, twins, methods,
// manifests, the device scope for edge hubs, and our own stream of events (spec
// iothub-service 2 to 7 and 15).
//
// Every request passes the same steps: path, API version, credentials, right,
// body; a handler then returns a document or an error, which one table turns into
// a status and the error bodies that shipped clients parse.
package api
