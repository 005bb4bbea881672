// Package rest is the HTTPS side of an IoT Hub: the JSON documents of its
// registry, twins, methods and device scope, and a client that exchanges them.
//
// The documents serve both ends: the local hub answers with them, edged registers
// modules with them, edgehub reads its scope with them, and the command line edits
// twins with them. The client does not care whose credentials it uses; it asks a
// function for the Authorization header each time.
//
// What may surprise: members that a hub always writes but may not know (keys,
// thumbprints, reasons) are null on the wire and "" here, by the types Secret and
// Text; and a nil ParentScopes is left out ("keep what is stored") while an empty
// one is written ("no parent").
package rest
