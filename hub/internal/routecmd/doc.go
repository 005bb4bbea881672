// Package routecmd is the logic of `edgehub route`, the tool for people who write
// routes: test applies conditions to messages, check reads a deployment manifest
// and tells what each route would do. Both work offline, from a reader to a writer,
// with the same code that routes messages in the hub.
package routecmd
