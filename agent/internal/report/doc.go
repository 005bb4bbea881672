// Package report builds the reported properties of $edgeAgent, in exactly the
// shape that IoT Hub's deployment metrics, the portal and command lines read
// (spec edgeagent 5).
package report
