package workload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/breakwater-iot/breakwater/daemon/internal/api"
)

// Listener opens sockets; *api.Server does.
type Listener interface {
	Listen(api.Endpoint) (*api.Socket, error)
}

// Sockets are the modules' workload sockets, <dir>/<module>.sock, mode 0666: who
// calls is told by the kernel, not by who may open the file. It is safe for
// concurrent use.
type Sockets struct {
	server Listener
	dir    string

	mu   sync.Mutex
	open map[string]*api.Socket
}

// NewSockets makes the directory.
func NewSockets(server Listener, dir string) (*Sockets, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create socket directory: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return nil, fmt.Errorf("create socket directory: %w", err)
	}
	return &Sockets{server: server, dir: dir, open: map[string]*api.Socket{}}, nil
}

// Path returns the path of a module's socket.
func (s *Sockets) Path(module string) string { return filepath.Join(s.dir, module+".sock") }

// Open implements module.Sockets. The module's name must have been checked.
func (s *Sockets) Open(module string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[module] != nil {
		return nil
	}
	k, err := s.server.Listen(api.Endpoint{Path: s.Path(module), Module: module, Mode: 0o666, Group: -1})
	if err != nil {
		return err
	}
	s.open[module] = k
	return nil
}

// Close implements module.Sockets.
func (s *Sockets) Close(module string) {
	s.mu.Lock()
	k := s.open[module]
	delete(s.open, module)
	s.mu.Unlock()
	if k != nil {
		k.Close()
	}
}

// Remove implements module.Sockets.
func (s *Sockets) Remove(module string) error {
	s.Close(module)
	if err := os.Remove(s.Path(module)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}

// Dir returns the directory of the sockets.
func (s *Sockets) Dir() string { return s.dir }
