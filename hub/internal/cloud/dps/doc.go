// Package dps is the device provisioning service of the local hub: operators enroll
// devices, one by one or in groups, and a device that proves it is enrolled gets an
// identity in the hub's registry (spec iothub-service 16, 17).
//
//	register -> attest (key, certificate, TPM) -> assign (registry, twin) -> record
//
// An assignment is carried out while the registration request is answered, so that
// nothing is left half-done by a restart; the answer still says "assigning" and the
// device asks for the result, as it must at the service in the cloud.
package dps
