package network

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Hosts keeps the files by which modules find each other: for every module a
// directory with hosts, hostname and resolv.conf, which the container sees in
// /etc by bind mounts. The files are rewritten in place, because a bind mount
// shows the file that was there, not its name.
type Hosts struct {
	dir     string
	gateway Pair

	// mu also covers the writing of the files: they show one state at a time.
	mu      sync.Mutex
	modules map[string]*host
}

// HostSettings are a module's own lines.
type HostSettings struct {
	Hostname   string
	Domainname string
	// Aliases are names besides the module's by which others find it.
	Aliases []string
	// Extra are lines "name:address"; the address may be "host-gateway".
	Extra []string
	// HostNetwork modules see the host's own hosts file and are not in the others'.
	HostNetwork bool
	DNS         Resolver
}

type host struct {
	settings HostSettings
	addrs    Pair // none while it does not run in the network
}

// Files are the paths to be mounted.
type Files struct{ Hosts, Hostname, Resolv string }

// NewHosts keeps its files below dir.
func NewHosts(dir string, gateway Pair) *Hosts {
	return &Hosts{dir: dir, gateway: gateway, modules: make(map[string]*host)}
}

// Paths returns where the files of a module are, whether or not it is known.
func (h *Hosts) Paths(module string) Files {
	dir := filepath.Join(h.dir, module)
	return Files{
		Hosts:    filepath.Join(dir, "hosts"),
		Hostname: filepath.Join(dir, "hostname"),
		Resolv:   filepath.Join(dir, "resolv.conf"),
	}
}

// Prepare makes a module known and writes its files; it does not run yet.
func (h *Hosts) Prepare(module string, s HostSettings) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := os.MkdirAll(filepath.Join(h.dir, module), 0o755); err != nil {
		return fmt.Errorf("hosts directory: %w", err)
	}
	resolv, err := s.DNS.file(s.HostNetwork)
	if err != nil {
		return err
	}
	files := h.Paths(module)
	h.modules[module] = &host{settings: s}
	return errors.Join(
		rewrite(files.Hostname, []byte(s.Hostname+"\n")),
		rewrite(files.Resolv, resolv),
		h.writeLocked(module))
}

// Adopt makes a module known that runs since before the daemon started. Its
// files are brought up to date at the next Up or Down of any module, or by Sync.
func (h *Hosts) Adopt(module string, s HostSettings, addrs Pair) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.modules[module] = &host{settings: s, addrs: addrs}
}

// Up says that a module now has addresses, and tells all modules.
func (h *Hosts) Up(module string, addrs Pair) error { return h.change(module, addrs) }

// Down says that a module ended, and tells the others.
func (h *Hosts) Down(module string) error { return h.change(module, Pair{}) }

func (h *Hosts) change(module string, addrs Pair) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.modules[module]
	if m == nil || m.addrs == addrs {
		return nil
	}
	m.addrs = addrs
	return h.syncLocked()
}

// Sync writes every module's file.
func (h *Hosts) Sync() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.syncLocked()
}

func (h *Hosts) syncLocked() error {
	var errs []error
	for name := range h.modules {
		errs = append(errs, h.writeLocked(name))
	}
	return errors.Join(errs...)
}

// Forget removes a module and its files.
func (h *Hosts) Forget(module string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.modules, module)
	return errors.Join(os.RemoveAll(filepath.Join(h.dir, module)), h.syncLocked())
}

func (h *Hosts) writeLocked(module string) error {
	content, err := h.renderLocked(module)
	if err != nil {
		return err
	}
	return rewrite(h.Paths(module).Hosts, content)
}

func (h *Hosts) renderLocked(module string) ([]byte, error) {
	m := h.modules[module]
	var b bytes.Buffer
	if m.settings.HostNetwork {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("hosts file of the host: %w", err)
		}
		b.Write(own)
		if len(own) > 0 && own[len(own)-1] != '\n' {
			b.WriteByte('\n')
		}
		h.extraLocked(&b, m)
		return b.Bytes(), nil
	}
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	h.extraLocked(&b, m) // before the modules, so that a deployment can override
	own := m.settings.Hostname
	if m.settings.Domainname != "" {
		own = own + "." + m.settings.Domainname + " " + own
	}
	for _, addr := range m.addrs.All() {
		fmt.Fprintf(&b, "%s\t%s\n", addr, own)
	}
	names := make([]string, 0, len(h.modules))
	for name := range h.modules {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		other := h.modules[name]
		for _, addr := range other.addrs.All() {
			fmt.Fprintf(&b, "%s\t%s\n", addr, strings.Join(append([]string{name}, other.settings.Aliases...), " "))
		}
	}
	return b.Bytes(), nil
}

func (h *Hosts) extraLocked(b *bytes.Buffer, m *host) {
	for _, line := range m.settings.Extra {
		name, addr, _ := strings.Cut(line, ":")
		if addr == "host-gateway" {
			for _, addr := range h.gateway.All() {
				fmt.Fprintf(b, "%s\t%s\n", addr, name)
			}
			continue
		}
		fmt.Fprintf(b, "%s\t%s\n", strings.Trim(addr, "[]"), name)
	}
}

// rewrite changes a file's content but not the file. The content goes in by one
// write, and what is longer is cut off after it.
func rewrite(name string, content []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, content) {
		return nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	return errors.Join(err, f.Truncate(int64(len(content))), f.Close())
}
