package engine

// LinkCost returns the bytes that links take.
func (c *Conn) LinkCost() int { return c.linkCost }

// Held returns what the connection holds for the client: bytes of messages in
// part, bytes not settled, links, sessions.
func (c *Conn) Held() (partial, buffered, links, sessions int) {
	return c.partial, c.buffered, c.links, len(c.sessions)
}
