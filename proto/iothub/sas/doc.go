// Package sas reads, checks and makes shared access signature tokens of IoT Hub
// (spec iothub-mqtt 3), the passwords of devices and modules and the
// Authorization header of services.
//
// A token is signed over its resource exactly as it is written, percent escapes
// included, so Token keeps that text and nobody may encode it again before
// checking the signature. Clients differ in what they escape and how often; the
// package accepts all forms that the SDKs send.
package sas
