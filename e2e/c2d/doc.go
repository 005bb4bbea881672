// Package c2d proves that messages of the cloud get to devices behind edgehub: the
// built programs, a leaf device over MQTT, and each protocol upstream.
package c2d
