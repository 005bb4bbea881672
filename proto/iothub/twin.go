package iothub

import "encoding/json"

// TwinProperties is what a device or module sees of its twin: both sections as
// JSON objects, each with "$version" (and without "$metadata").
type TwinProperties struct {
	Desired  json.RawMessage `json:"desired"`
	Reported json.RawMessage `json:"reported"`
}
