// Package identity manages the device's module identities in the cloud registry
// with the device's own credentials, and remembers them on disk so that modules
// start and sign without the cloud.
//
// Keys are not stored anywhere: they are derived from the module's id and
// generation (package keys) and registered in the cloud. The cache holds only
// names and generations:
//
//	cache/identities.json  {"hub","device","modules":[{"moduleId","generationId","managedBy"}]}
package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// DefaultManager is the managedBy of identities whose creator names none.
const DefaultManager = "IotEdge"

// Kinds of failure.
var (
	// ErrNotFound: the registry has no such module.
	ErrNotFound = errors.New("no such module identity")
	// ErrInvalid: the id cannot be one, or the registry refused the request as such.
	ErrInvalid = errors.New("invalid identity")
	// ErrUnavailable: the registry does not answer or asks to wait; try again later.
	ErrUnavailable = errors.New("registry not reachable")
	// ErrRefused: the registry does not accept this device's credentials.
	ErrRefused = errors.New("registry refused access")
)

// Identity is a module identity as registered.
type Identity struct {
	ModuleID     string `json:"moduleId"`
	GenerationID string `json:"generationId"`
	ManagedBy    string `json:"managedBy"`
}

// Registry is the cloud's registry; *rest.Client is one.
type Registry interface {
	GetModule(ctx context.Context, id iothub.Identity) (rest.Module, error)
	PutModule(ctx context.Context, m rest.Module, ifMatch string) (rest.Module, error)
	DeleteModule(ctx context.Context, id iothub.Identity, ifMatch string) error
	ListModules(ctx context.Context, device string) ([]rest.Module, error)
}

// Keys derives what is registered; *keys.Ring does.
type Keys interface {
	ModuleKeys(module, generation string) (primary, secondary string)
}

// Options configures New. All fields but Now, OnRefused and PreferCache are needed.
type Options struct {
	Registry    Registry
	Keys        Keys
	Hub, Device string
	// CacheFile is where identities are remembered; its directory must exist.
	CacheFile string
	// PreferCache has List return what is remembered, if anything is, without asking the
	// registry.
	PreferCache bool
	Log         *slog.Logger
	// OnRefused is called when the registry does not accept the device's credentials:
	// the device may belong to another hub now. It must not block; nil is fine.
	OnRefused func()
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Manager creates, updates, deletes and knows module identities. It is safe for
// concurrent use.
type Manager struct {
	opt   Options
	quiet throttle

	// save is held while the cache file is written, before mu where both are.
	save  sync.Mutex
	mu    sync.Mutex
	known map[string]Identity // by module id
}

// New makes a manager and reads its cache. A cache of another device or hub, or a
// damaged one, is dropped.
func New(opt Options) (*Manager, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	m := &Manager{opt: opt, known: map[string]Identity{}}
	m.quiet.now = opt.Now
	return m, m.loadCache()
}

// List returns the device's module identities, ordered by id: those of the
// registry, or the remembered ones when it cannot be reached or they are preferred.
func (m *Manager) List(ctx context.Context) ([]Identity, error) {
	if m.opt.PreferCache {
		if known := m.remembered(); len(known) > 0 {
			return known, nil
		}
	}
	var found []rest.Module
	err := m.call("list module identities", func() (err error) {
		found, err = m.opt.Registry.ListModules(ctx, m.opt.Device)
		return err
	})
	if errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		if known := m.remembered(); len(known) > 0 {
			m.opt.Log.WarnContext(ctx, "identities taken from the cache", "error", err)
			return known, nil
		}
	}
	if err != nil {
		return nil, err
	}
	all := make(map[string]Identity, len(found))
	for _, f := range found {
		all[f.ModuleID] = fromDocument(f)
	}
	if err := m.remember(func(known map[string]Identity) {
		clear(known)
		for id, i := range all {
			known[id] = i
		}
	}); err != nil {
		return nil, err
	}
	return m.remembered(), nil
}

// Lookup returns the identity of a module: the remembered one, else the
// registry's. The error is ErrNotFound when there is none.
func (m *Manager) Lookup(ctx context.Context, module string) (Identity, error) {
	m.mu.Lock()
	known, ok := m.known[module]
	m.mu.Unlock()
	if ok {
		return known, nil
	}
	return m.fetch(ctx, module)
}

func (m *Manager) fetch(ctx context.Context, module string) (Identity, error) {
	id, err := m.id(module)
	if err != nil {
		return Identity{}, err
	}
	var doc rest.Module
	err = m.call("get module identity", func() (err error) {
		doc, err = m.opt.Registry.GetModule(ctx, id)
		return err
	})
	if err != nil {
		return Identity{}, err
	}
	return m.keep(fromDocument(doc))
}

// Create registers a module with its derived keys and returns its identity. One
// that is there already gets this device's keys and keeps its generation.
func (m *Manager) Create(ctx context.Context, module, managedBy string) (Identity, error) {
	id, err := m.id(module)
	if err != nil {
		return Identity{}, err
	}
	managedBy = cmp.Or(managedBy, DefaultManager)
	var doc rest.Module
	// First without keys: they depend on the generation, which the registry gives.
	// Without a word on authentication the registry would make up keys, and a hub
	// that hears of the module now would keep these for a while.
	err = m.call("create module identity", func() (err error) {
		doc, err = m.opt.Registry.PutModule(ctx, rest.Module{
			DeviceID: id.Device, ModuleID: id.Module, ManagedBy: managedBy,
			Authentication: &rest.Authentication{Type: rest.AuthNone},
		}, rest.MustNotExist)
		return err
	})
	if rest.StatusOf(err) == http.StatusConflict {
		current, err := m.fetch(ctx, module)
		if err != nil {
			return Identity{}, err
		}
		return m.register(ctx, id, current.GenerationID, managedBy)
	}
	if err != nil {
		return Identity{}, err
	}
	return m.register(ctx, id, doc.GenerationID, managedBy)
}

// Update registers a module's derived keys again. generation is what the caller
// believes; the registry's counts. An empty managedBy keeps the registered one.
// The error is ErrNotFound when there is no such module.
func (m *Manager) Update(ctx context.Context, module, generation, managedBy string) (Identity, error) {
	id, err := m.id(module)
	if err != nil {
		return Identity{}, err
	}
	if generation == "" {
		current, err := m.fetch(ctx, module)
		if err != nil {
			return Identity{}, err
		}
		generation = current.GenerationID
	}
	return m.register(ctx, id, generation, managedBy)
}

// register puts the keys for generation, and once more when the answer shows that
// the registry has another generation.
func (m *Manager) register(ctx context.Context, id iothub.Identity, generation, managedBy string) (Identity, error) {
	for range 2 {
		var doc rest.Module
		err := m.call("register module keys", func() (err error) {
			doc, err = m.opt.Registry.PutModule(ctx, rest.Module{
				DeviceID: id.Device, ModuleID: id.Module, ManagedBy: managedBy,
				Authentication: rest.SAS(m.opt.Keys.ModuleKeys(id.Module, generation)),
			}, rest.MustExist)
			return err
		})
		if err != nil {
			if errors.Is(err, ErrNotFound) {
				m.forget(ctx, id.Module)
			}
			return Identity{}, err
		}
		if doc.GenerationID == generation {
			return m.keep(fromDocument(doc))
		}
		generation = doc.GenerationID
	}
	return Identity{}, fmt.Errorf("register module keys: %w: generation keeps changing", ErrUnavailable)
}

// Delete removes a module identity. One that does not exist is fine.
func (m *Manager) Delete(ctx context.Context, module string) error {
	id, err := m.id(module)
	if err != nil {
		return err
	}
	err = m.call("delete module identity", func() error {
		return m.opt.Registry.DeleteModule(ctx, id, rest.MustExist)
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return m.remember(func(known map[string]Identity) { delete(known, module) })
}

func (m *Manager) id(module string) (iothub.Identity, error) {
	if err := iothub.CheckID(module); err != nil {
		return iothub.Identity{}, fmt.Errorf("%w: module: %w", ErrInvalid, err)
	}
	return iothub.ModuleIdentity(m.opt.Device, module), nil
}

func fromDocument(d rest.Module) Identity {
	return Identity{ModuleID: d.ModuleID, GenerationID: d.GenerationID, ManagedBy: d.ManagedBy}
}

func (m *Manager) remembered() []Identity {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Identity, 0, len(m.known))
	for _, i := range m.known {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b Identity) int { return cmp.Compare(a.ModuleID, b.ModuleID) })
	return out
}

func (m *Manager) keep(i Identity) (Identity, error) {
	return i, m.remember(func(known map[string]Identity) { known[i.ModuleID] = i })
}

func (m *Manager) forget(ctx context.Context, module string) {
	if err := m.remember(func(known map[string]Identity) { delete(known, module) }); err != nil {
		m.opt.Log.ErrorContext(ctx, "identity cache", "error", err)
	}
}
