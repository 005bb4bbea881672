package engine

// Held returns what the connection holds for the client: bytes of messages in
// part, bytes not settled, links, sessions.
func (c *Conn) Held() (partial, buffered, links, sessions int) {
	return c.partial, c.buffered, c.links, len(c.sessions)
}
