// Package bundle is the support bundle: a zip file about the device, without the secrets
// that package redact knows. It is written as a stream; what is being added is never held
// as a whole.
package bundle

import (
	"archive/zip"
	"errors"
	"io"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/redact"
)

// Wish says what a bundle is to tell of the machine.
type Wish struct {
	// Since and Until bound logs; zero for all.
	Since, Until time.Time
	// HubName is the hub that checks connect to; empty means the device's own.
	HubName string
}

// Archive is a bundle as it grows. It is for one goroutine.
type Archive struct {
	zip *zip.Writer
	now time.Time
	// Say is told of each entry; may be nil.
	Say   func(name string)
	names map[string]bool
}

// New makes an archive onto w, of things as they are now.
func New(w io.Writer, now time.Time) *Archive {
	return &Archive{zip: zip.NewWriter(w), now: now, names: map[string]bool{}}
}

// Now is what New was given.
func (a *Archive) Now() time.Time { return a.now }

// Has tells whether there is an entry of that name.
func (a *Archive) Has(name string) bool { return a.names[name] }

// Add makes an entry of what write writes.
func (a *Archive) Add(name string, write func(io.Writer) error) error {
	if a.Say != nil {
		a.Say(name)
	}
	a.names[name] = true
	w, err := a.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: a.now})
	if err != nil {
		return err
	}
	text := redact.NewWriter(w)
	return errors.Join(write(text), text.Close())
}

// Close ends the archive. It does not close what it is written to.
func (a *Archive) Close() error { return a.zip.Close() }
