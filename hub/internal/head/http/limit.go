package http

import (
	"net"
	"sync"
)

// limited accepts no more connections than there are places; others wait in the
// kernel's queue, which is bounded too.
type limited struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, n), closed: make(chan struct{})}
}

// Accept waits for a place and a connection.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &place{Conn: c, free: sync.OnceFunc(func() { <-l.places })}, nil
}

// Close ends the listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// place is a connection that gives its place back.
type place struct {
	net.Conn
	free func()
}

// Close closes the connection.
func (p *place) Close() error {
	err := p.Conn.Close()
	p.free()
	return err
}
