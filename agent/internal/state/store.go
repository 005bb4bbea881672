package state

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/rollout"
	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// ErrNone is returned when nothing was saved yet.
var ErrNone = errors.New("nothing saved")

// Sealer encrypts for this agent on this device.
type Sealer interface {
	Seal(ctx context.Context, plaintext, iv []byte) ([]byte, error)
	Open(ctx context.Context, sealed, iv []byte) ([]byte, error)
}

// Taken is the deployment last taken over and what became of it.
type Taken struct {
	Deployment manifest.Deployment `json:"deployment"`
	// Applied is what each existing container was made from. It differs from the
	// deployment where a command failed.
	Applied map[string]manifest.Module `json:"applied"`
	// Safe is where a safe deployment stands.
	Safe rollout.State `json:"safe,omitzero"`
	// Images are the hashes of the images that the modules of Safe.Old were made from, by
	// module. Only with a Safe.Old.
	Images map[string]string `json:"images,omitempty"`
	// Retired are the modules of a deployment to which nobody goes back any more. Identities
	// of some of them may be left that no module has.
	Retired []string `json:"retired,omitempty"`
}

// Options says where and how to keep state.
type Options struct {
	Folder string // made when absent
	Backup string // path of the backup; empty: backup.json in Folder
	// Volatile keeps taken and restarts in memory only (UsePersistentStorage=false).
	Volatile bool
	Sealer   Sealer
}

const (
	takenFile    = "taken.json"
	restartsFile = "restarts.json"
	backupFile   = "backup.json"
)

// Store is the agent's memory.
type Store struct {
	opts Options

	mu       sync.Mutex // guards what follows and the writing of files
	restarts map[string]plan.Restart
	taken    *Taken          // last saved
	backup   json.RawMessage // last saved
}

// Open makes the folder and reads the restart states. An unreadable restarts file
// counts as empty: warn is told why.
func Open(opts Options) (_ *Store, warn error, err error) {
	if opts.Backup == "" {
		opts.Backup = filepath.Join(opts.Folder, backupFile)
	}
	for _, dir := range []string{opts.Folder, filepath.Dir(opts.Backup)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, nil, fmt.Errorf("storage folder: %w", err)
		}
	}
	err = errors.Join(sweep(opts.Folder, takenFile, restartsFile),
		sweep(filepath.Dir(opts.Backup), filepath.Base(opts.Backup)))
	if err != nil {
		return nil, nil, err
	}
	s := &Store{opts: opts, restarts: map[string]plan.Restart{}}
	if opts.Volatile {
		return s, nil, nil
	}
	b, err := os.ReadFile(filepath.Join(opts.Folder, restartsFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("restart states: %w", err)
	}
	if err := json.Unmarshal(b, &s.restarts); err != nil || s.restarts == nil {
		s.restarts = map[string]plan.Restart{}
		return s, fmt.Errorf("restart states are unreadable and count as empty: %w", err), nil
	}
	return s, nil, nil
}

// Restarts returns a copy of the saved restart states.
func (s *Store) Restarts() map[string]plan.Restart {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.restarts)
}

// SaveRestart remembers r for a module.
func (s *Store) SaveRestart(module string, r plan.Restart) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restarts[module] == r {
		return nil
	}
	s.restarts[module] = r
	return s.writeRestartsLocked()
}

// ForgetRestart drops what is remembered for a module.
func (s *Store) ForgetRestart(module string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.restarts[module]; !ok {
		return nil
	}
	delete(s.restarts, module)
	return s.writeRestartsLocked()
}

func (s *Store) writeRestartsLocked() error {
	if s.opts.Volatile {
		return nil
	}
	b, err := json.Marshal(s.restarts)
	if err != nil {
		return fmt.Errorf("restart states: %w", err)
	}
	return atomicfile.Write(filepath.Join(s.opts.Folder, restartsFile), b, 0o600)
}

// LoadTaken returns what SaveTaken saved. ErrNone when there is nothing; any other
// error means that the file cannot be read or opened with this device's key.
func (s *Store) LoadTaken(ctx context.Context) (*Taken, error) {
	s.mu.Lock()
	taken := s.taken
	s.mu.Unlock()
	if taken != nil {
		return taken, nil
	}
	if s.opts.Volatile {
		return nil, ErrNone
	}
	b, err := s.readSealed(ctx, filepath.Join(s.opts.Folder, takenFile))
	if err != nil {
		return nil, err
	}
	t := &Taken{}
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("deployment taken over: %w", err)
	}
	return t, nil
}

// SaveTaken seals and writes t, which must not be changed afterwards.
func (s *Store) SaveTaken(ctx context.Context, t *Taken) error {
	if !s.opts.Volatile {
		b, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("deployment taken over: %w", err)
		}
		if err := s.writeSealed(ctx, filepath.Join(s.opts.Folder, takenFile), b); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.taken = t
	s.mu.Unlock()
	return nil
}

// backupDoc is the sealed content of the backup.
type backupDoc struct {
	Version          int64           `json:"version"`
	DeploymentConfig json.RawMessage `json:"deploymentConfig"`
}

// LoadBackup returns the desired section last given to SaveBackup.
func (s *Store) LoadBackup(ctx context.Context) (json.RawMessage, error) {
	b, err := s.readSealed(ctx, s.opts.Backup)
	if err != nil {
		return nil, err
	}
	var doc backupDoc
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	s.mu.Lock()
	s.backup = doc.DeploymentConfig
	s.mu.Unlock()
	return doc.DeploymentConfig, nil
}

// SaveBackup seals and writes a valid desired section of the given version, if it
// differs from the last one.
func (s *Store) SaveBackup(ctx context.Context, version int64, desired json.RawMessage) error {
	s.mu.Lock()
	same := bytes.Equal(s.backup, desired)
	s.mu.Unlock()
	if same {
		return nil
	}
	b, err := json.Marshal(backupDoc{Version: version, DeploymentConfig: desired})
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := s.writeSealed(ctx, s.opts.Backup, b); err != nil {
		return err
	}
	s.mu.Lock()
	s.backup = bytes.Clone(desired)
	s.mu.Unlock()
	return nil
}

type envelope struct {
	IV     []byte `json:"iv"`
	Sealed []byte `json:"sealed"`
}

func (s *Store) writeSealed(ctx context.Context, path string, plaintext []byte) error {
	e := envelope{IV: []byte(rand.Text())}
	var err error
	if e.Sealed, err = s.opts.Sealer.Seal(ctx, plaintext, e.IV); err != nil {
		return fmt.Errorf("seal %s: %w", filepath.Base(path), err)
	}
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("seal %s: %w", filepath.Base(path), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return atomicfile.Write(path, b, 0o600)
}

func (s *Store) readSealed(ctx context.Context, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	plaintext, err := s.opts.Sealer.Open(ctx, e.Sealed, e.IV)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	return plaintext, nil
}
