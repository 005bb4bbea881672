package runtime

import "log/slog"

// PullPolicy says whether Pull may use the network.
type PullPolicy string

// The policies of the deployment manifest.
const (
	PullOnCreate PullPolicy = "on-create" // always ask the registry
	PullNever    PullPolicy = "never"     // the image must be present
)

// PullRequest asks for an image.
type PullRequest struct {
	Image  string
	Auth   Auth
	Policy PullPolicy // empty is PullOnCreate
	// ID, if set, asks for the image with this id, which was pulled under the name of
	// Image once, whatever that name means by now. It must be present; the registry is
	// not asked.
	ID string
}

// Auth is the account for a registry. The zero value is anonymous.
type Auth struct {
	// ServerAddress names the registry that the account is for. It is never sent to
	// another one. Empty means the registry of the image.
	ServerAddress string
	Username      string
	Password      Secret
}

// Secret is a string that never shows itself in logs or errors.
type Secret string

// String returns stars.
func (Secret) String() string { return "***" }

// GoString returns stars.
func (Secret) GoString() string { return "***" }

// LogValue returns stars.
func (Secret) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText returns stars, so that no encoder writes the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Image is an image on the device.
type Image struct {
	// ID is the digest of the image's configuration: the image hash of the API.
	ID string
	// Digest is the digest of the manifest or index.
	Digest string
	// Names are the references under which it is known, in canonical form.
	Names []string
}
