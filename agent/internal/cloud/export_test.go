package cloud

import "github.com/breakwater-iot/breakwater/proto/iothub/client"

// Tell tells a change of the connection, as the client does.
func (c *Cloud) Tell(s client.Connection) { c.connection(s) }
