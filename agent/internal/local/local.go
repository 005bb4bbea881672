// Package local is a deployment that lies in a file, in place of the module twin
// (ConfigSource=local; docs/local-deployment.md). There is then no connection to a hub
// and nothing is reported.
package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// maxFile bounds the file, in bytes. A twin may have 32 KiB.
const maxFile = 4 << 20

// File stands where the agent's twin is otherwise. It may be used from many goroutines.
type File struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex // guards what follows
	raw     []byte     // of the last time
	section json.RawMessage
	fault   string // that was logged last
}

// New returns the deployment in the file. It is read with each call of Desired, so
// that no change is missed and nothing has to watch the file.
func New(path string, log *slog.Logger) *File { return &File{path: path, log: log} }

// Desired returns the deployment as a desired section, the last one that could be read
// if the file is bad now; ok is false when there was none yet.
func (f *File) Desired() (section json.RawMessage, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	raw, err := read(f.path)
	if err == nil && !bytes.Equal(raw, f.raw) {
		var next json.RawMessage
		if next, err = deployment(raw); err == nil {
			f.raw, f.section = raw, next
		}
	}
	switch {
	case err == nil:
		f.fault = ""
	case err.Error() != f.fault:
		f.fault = err.Error()
		f.log.Error("deployment not read; the last good one stays in force", "file", f.path, "error", err)
	}
	return f.section, f.section != nil
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("the file is longer than %d bytes", maxFile)
	}
	return raw, err
}

// deployment makes a desired section of {"version": 1, "deploymentConfig": {...}}. What
// is in it is not looked at.
func deployment(raw []byte) (json.RawMessage, error) {
	var in struct {
		Version          int64           `json:"version"`
		DeploymentConfig json.RawMessage `json:"deploymentConfig"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, fmt.Errorf("not JSON of the expected form: %w", err)
	}
	if len(in.DeploymentConfig) == 0 || in.DeploymentConfig[0] != '{' {
		return nil, errors.New("deploymentConfig is missing")
	}
	return iothub.WithVersion(in.DeploymentConfig, in.Version)
}

// Changed returns a channel that never receives: a change is seen by the next Desired.
func (f *File) Changed() <-chan struct{} { return nil }

// Report drops the report: there is nobody to take it.
func (f *File) Report(context.Context, json.RawMessage) error { return nil }

// ReportPart drops the report.
func (f *File) ReportPart(context.Context, json.RawMessage) error { return nil }

// ErrNoHub tells that there is no connection to a hub.
var ErrNoHub = errors.New("the deployment is local: there is no hub")

// NoHub stands where the connection to the hub is otherwise: it never comes about.
type NoHub struct{}

// Run waits until ctx ends.
func (NoHub) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Twin fails.
func (NoHub) Twin(context.Context) (iothub.TwinProperties, error) {
	return iothub.TwinProperties{}, ErrNoHub
}

// PatchReported fails.
func (NoHub) PatchReported(context.Context, json.RawMessage) error { return ErrNoHub }

// OnConnection does nothing: the connection does not change.
func (NoHub) OnConnection(func(up bool)) {}

// OnRefused does nothing.
func (NoHub) OnRefused(func()) {}

// OnDesired does nothing.
func (NoHub) OnDesired(func(patch json.RawMessage)) {}

// OnMethod does nothing: nobody calls.
func (NoHub) OnMethod(func(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse) {}
