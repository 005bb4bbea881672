// Package createopts is the createOptions of a module: the body of Docker's
// "create a container" request (API 1.41) that deployments carry. It only reads
// and amends; what the options mean for a container is decided where the
// container is made (internal/containerd/ocimap).
//
// Field names are matched in any case, as the original does. What is unknown here
// is not an error: it is reported as a warning, because manifests in the field
// carry options for other engines.
package createopts

// Options is a create body. The zero value asks for nothing.
type Options struct {
	// Env has "K=V", or "K" alone, which removes K from the image's environment.
	Env []string `json:",omitempty"`
	// Cmd and Entrypoint are nil when they are not given, which is different from
	// empty.
	Cmd        Args              `json:",omitzero"`
	Entrypoint Args              `json:",omitzero"`
	Labels     map[string]string `json:",omitempty"`

	Hostname   string `json:",omitempty"`
	Domainname string `json:",omitempty"`
	User       string `json:",omitempty"`
	WorkingDir string `json:",omitempty"`

	Tty          bool `json:",omitempty"`
	OpenStdin    bool `json:",omitempty"`
	StdinOnce    bool `json:",omitempty"`
	AttachStdin  bool `json:",omitempty"`
	AttachStdout bool `json:",omitempty"`
	AttachStderr bool `json:",omitempty"`

	Volumes      map[string]struct{} `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`

	StopSignal  string `json:",omitempty"`
	StopTimeout *int   `json:",omitempty"`

	NetworkDisabled  bool              `json:",omitempty"`
	MacAddress       string            `json:",omitempty"`
	NetworkingConfig *NetworkingConfig `json:",omitempty"`
	HostConfig       HostConfig        `json:",omitzero"`

	// Image is overwritten by the module's image.
	Image       string       `json:",omitempty"`
	Healthcheck *Healthcheck `json:",omitempty"`
}

// Healthcheck says how to find out how the module feels. Times are nanoseconds; what
// is 0 or empty comes from the image.
type Healthcheck struct {
	Test        []string `json:",omitempty"`
	Interval    int64    `json:",omitempty"`
	Timeout     int64    `json:",omitempty"`
	StartPeriod int64    `json:",omitempty"`
	// StartInterval is the pause between probes within StartPeriod.
	StartInterval int64 `json:",omitempty"`
	Retries       int   `json:",omitempty"`
}

// NetworkingConfig says which networks to join.
type NetworkingConfig struct {
	EndpointsConfig map[string]*Endpoint `json:",omitempty"`
}

// Endpoint is the module's place in one network.
type Endpoint struct {
	Aliases    []string    `json:",omitempty"`
	Links      []string    `json:",omitempty"`
	IPAMConfig *IPAMConfig `json:",omitempty"`
	MacAddress string      `json:",omitempty"`
}

// IPAMConfig asks for fixed addresses.
type IPAMConfig struct {
	IPv4Address string `json:",omitempty"`
	IPv6Address string `json:",omitempty"`
}
