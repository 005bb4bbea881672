// Package access decides who may do what in the local hub: the shared access
// policies, and the credentials of devices and modules (spec iothub-service 1,
// iothub-mqtt 3 and 4). Reasons of a refusal are in the errors, for the log; they
// hold no secret.
package access
