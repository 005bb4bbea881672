// Package twin keeps the twins of the local hub: tags, desired and reported
// properties with their metadata, versions and limits (spec iothub-service 5), and
// their place in the store.
//
// Values are JSON decoded with UseNumber, so that numbers keep their spelling. A
// Twin that Get or Update hands out belongs to the receiver.
package twin
