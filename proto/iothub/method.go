package iothub

import "encoding/json"

// MaxMethodPayload is the largest payload of a direct method, each way, in bytes.
const MaxMethodPayload = 128 << 10

// MethodRequest is a call of a direct method. Payload is a JSON value; it is
// empty when the caller gave none.
type MethodRequest struct {
	Name    string
	Payload json.RawMessage
}

// MethodResponse is the answer to a MethodRequest. Status is the method's own
// (any 32-bit number, by custom an HTTP status); Payload is a JSON value or empty.
type MethodResponse struct {
	Status  int
	Payload json.RawMessage
}
