// Package events is the telemetry log of the local hub: what IoT Hub keeps in its
// event-hub-compatible endpoint. An event is durable when its append is reported
// done; readers see durable events only, in order, and can follow.
//
// Each event has a position in the whole log, and, as in an event hub, a sequence
// number and an offset in its partition. The device alone decides the partition
// (spec iothub-service 12.3).
//
// Layout in the store:
//
//	e\x00 <position, 8 bytes big endian>   one event, see codec.go
//	m\x00 <position, 8 bytes big endian>   how things stood there, see mark.go
//	b\x00 cloud.events \x00 head           counters; written with every append
package events
