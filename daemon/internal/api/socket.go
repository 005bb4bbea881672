package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
)

// connsPerRequest: a socket holds at most this many connections for every allowed
// request; more are closed at once. Clients keep few, and most SDKs none.
const connsPerRequest = 8

// Endpoint describes a socket.
type Endpoint struct {
	Path string
	// Module owns the socket; empty for a shared one.
	Module string
	Mode   fs.FileMode
	// Group is the group id that owns the file; -1 leaves the daemon's.
	Group int
}

// Socket is one listening unix socket of a Server.
type Socket struct {
	server *Server
	at     Endpoint
	ln     *net.UnixListener
	work   sync.WaitGroup

	mu    sync.Mutex
	conns map[*peer.Conn]struct{}
	done  chan struct{} // closed, under mu, when no connection is taken any more
}

// doneLocked tells whether the socket has stopped accepting.
func (k *Socket) doneLocked() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// ErrClosed says that the server has ended.
var ErrClosed = errors.New("api server has ended")

// Listen opens a socket, replacing what an earlier run left at its path, and
// serves it until Close or until the server ends.
func (s *Server) Listen(at Endpoint) (*Socket, error) {
	ln, err := bind(at)
	if err != nil {
		return nil, err
	}
	return s.Adopt(ln, at)
}

// Adopt serves a socket that is listening already, such as one of the service
// manager's, as Listen does. Mode and group of at have no effect. It closes ln in
// any case.
func (s *Server) Adopt(ln *net.UnixListener, at Endpoint) (*Socket, error) {
	k := &Socket{server: s, at: at, ln: ln, conns: map[*peer.Conn]struct{}{}, done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(ErrClosed, ln.Close())
	}
	s.sockets[k] = struct{}{}
	s.group.Go(k.accept)
	return k, nil
}

// bind makes the socket under its final mode: it is created in a form that only
// the daemon may open, and opened to others when owner and mode are set.
func bind(at Endpoint) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(at.Path), 0o755); err != nil {
		return nil, fmt.Errorf("create socket directory: %w", err)
	}
	// Also removes an empty directory, which an engine makes of a missing bind source.
	if err := os.Remove(at.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: at.Path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	err = os.Chmod(at.Path, 0)
	if err == nil && at.Group >= 0 {
		err = os.Chown(at.Path, -1, at.Group)
	}
	if err == nil {
		err = os.Chmod(at.Path, at.Mode)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set socket mode: %w", err), ln.Close(), os.Remove(at.Path))
	}
	return ln, nil
}

// Close stops listening, closes the socket's connections and waits until its
// goroutines have ended. The file stays, so that mounts of it stay valid; nobody
// can connect to it. Close may be called twice.
func (k *Socket) Close() {
	k.stopAccepting()
	k.mu.Lock()
	open := make([]*peer.Conn, 0, len(k.conns))
	for c := range k.conns {
		open = append(open, c)
	}
	k.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
	k.work.Wait()
	k.server.mu.Lock()
	delete(k.server.sockets, k)
	k.server.mu.Unlock()
}

func (k *Socket) stopAccepting() {
	k.mu.Lock()
	if !k.doneLocked() {
		close(k.done)
	}
	k.mu.Unlock()
	_ = k.ln.Close()
}

func (k *Socket) accept() {
	log := k.server.opt.Log.With("socket", k.at.Path)
	for {
		raw, err := k.ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, most likely: wait for some to come free.
			log.Error("accept", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-k.done:
				return
			}
			continue
		}
		if err := k.take(raw); err != nil {
			log.Warn("connection refused", "reason", err)
		}
	}
}

var errTooMany = errors.New("too many connections")

func (k *Socket) take(raw net.Conn) error {
	var c *peer.Conn
	c, err := peer.Accepted(raw, k.at.Module, func() {
		k.mu.Lock()
		delete(k.conns, c)
		k.mu.Unlock()
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	full, closed := len(k.conns) >= connsPerRequest*k.server.opt.MaxRequests, k.doneLocked()
	if !full && !closed {
		k.conns[c] = struct{}{}
		k.work.Go(func() { k.dispatch(c) })
	}
	k.mu.Unlock()
	if full || closed {
		_ = c.Close()
	}
	if full {
		return errTooMany
	}
	return nil
}

// dispatch reads the beginning of a connection and hands it to gRPC or HTTP/1.1.
func (k *Socket) dispatch(c *peer.Conn) {
	sniffed, isHTTP2, err := sniff(c)
	if err != nil {
		_ = c.Close()
		return
	}
	q := k.server.h1
	if isHTTP2 {
		q = k.server.h2
	}
	if !q.put(sniffed, k.done) {
		_ = c.Close()
	}
}
