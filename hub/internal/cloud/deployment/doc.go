// Package deployment is what deployments put on edge devices (spec iothub-service 7 and
// 8; docs/deployments.md for users): manifests, configurations that bring a manifest to
// all devices of a condition, and what several of them make of one device. It writes
// no twins; the hub does.
package deployment
