// Package config reads the daemon's config.toml. The keys are those of the
// original (spec security-daemon 11) and some of ours, such as [containerd]. A key that
// is unknown is refused with its line, because a misspelt security setting that is
// silently ignored is worse than no start; so is one that would give less security than
// it says. A key of the original that has no effect here is in Config.Warnings.
package config

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// DefaultPath is where the config is looked for.
const DefaultPath = "/etc/aziot/config.toml"

// Secret is text that prints as stars everywhere. Convert with string() to use it.
type Secret string

// String returns stars.
func (s Secret) String() string { return "***" }

// Format prints stars under every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "***") }

// LogValue returns stars.
func (s Secret) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText returns stars.
func (s Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Config is the whole configuration, with defaults filled in.
type Config struct {
	Hostname string `toml:"hostname"`
	// ParentHostname is the edge device above this one, through which everything that
	// concerns the hub goes; empty if the hub itself is above. After Load it is also
	// what the file calls local_gateway_hostname.
	ParentHostname  string `toml:"parent_hostname"`
	ParentAlias     string `toml:"local_gateway_hostname"`
	HomeDir         string `toml:"homedir"`
	TrustBundleCert string `toml:"trust_bundle_cert"` // file path after Load
	// ManifestTrustBundleCert is what modules are told of the signers of deployment
	// manifests, a file path after Load.
	ManifestTrustBundleCert string `toml:"manifest_trust_bundle_cert"`
	// PreferCache has module identities listed as they are remembered, without asking the
	// hub.
	PreferCache bool `toml:"prefer_module_identity_cache"`
	// ImportedKey is the file of another installation's key for sealed data: see
	// MasterKeys.
	ImportedKey string `toml:"imported_master_encryption_key"`
	// PreloadedKeys and PreloadedCerts are by ids of the original; a certificate is a URI
	// or a list of ids.
	PreloadedKeys      map[string]KeyURI  `toml:"preloaded_keys"`
	PreloadedCerts     map[string]any     `toml:"preloaded_certs"`
	MaxServiceRequests MaxServiceRequests `toml:"aziot_max_requests"`
	LocalID            LocalID            `toml:"localid"`
	AllowElevated      bool               `toml:"allow_elevated_docker_permissions"`
	Reprovisioning     Mode               `toml:"auto_reprovisioning_mode"`
	CloudTimeoutSec    int                `toml:"cloud_timeout_sec"`
	CloudRetries       int                `toml:"cloud_retries"`
	// AdditionalInfoValue is a table of texts, or the URI of a file of them.
	AdditionalInfoValue any          `toml:"additional_info"`
	MaxRequests         MaxRequests  `toml:"iotedge_max_requests"`
	Provisioning        Provisioning `toml:"provisioning"`
	Agent               Agent        `toml:"agent"`
	Connect             URIs         `toml:"connect"`
	Listen              URIs         `toml:"listen"`
	Watchdog            Watchdog     `toml:"watchdog"`
	EdgeCA              EdgeCA       `toml:"edge_ca"`
	Issuance            Issuance     `toml:"cert_issuance"`
	Keys                Keys         `toml:"aziot_keys"`
	TPM                 TPM          `toml:"tpm"`
	Moby                Moby         `toml:"moby_runtime"`
	Containerd          Containerd   `toml:"containerd"`
	ImageGC             ImageGC      `toml:"image_garbage_collection"`
	Verification        Verification `toml:"image_verification"`

	// AdditionalInfo is what [additional_info] says, after Load.
	AdditionalInfo map[string]string `toml:"-"`
	// MasterKeys is what the keys of the device begin with, after Load.
	MasterKeys MasterKeys `toml:"-"`
	// Device is what [provisioning] says, after Load; with DPS it is zero until the
	// daemon fills in what was assigned.
	Device Device `toml:"-"`
	// Identity is the device's credential, after Load.
	Identity Identity `toml:"-"`
	// Warnings are keys of the file that do less than one could think, after Load, in
	// the order of their lines.
	Warnings []*Error `toml:"-"`
}

// MaxRequests bounds simultaneous requests per module, or per user id of the host.
type MaxRequests struct {
	Management int `toml:"management"`
	Workload   int `toml:"workload"`
}

// Agent describes the bootstrap agent.
type Agent struct {
	Name       string            `toml:"name"`
	Type       string            `toml:"type"`
	PullPolicy string            `toml:"imagePullPolicy"` // "on-create" or "never" after Load
	Config     AgentConfig       `toml:"config"`
	Env        map[string]string `toml:"env"`
	Trial      AgentTrial        `toml:"trial"`
}

// AgentTrial says when an agent that replaces another is good, and when it is taken back.
type AgentTrial struct {
	// Attempts is how often it is started, 1 to 10.
	Attempts int `toml:"attempts"`
	// Settle is how long it must have run when it asks for work, as in "30s"; Limit is
	// how long one run may take until then, as in "2m".
	Settle string `toml:"settle"`
	Limit  string `toml:"limit"`

	// What the texts say, after Load.
	SettleTime, LimitTime time.Duration `toml:"-"`
}

// AgentConfig is the image and how its container is made.
type AgentConfig struct {
	Image         string         `toml:"image"`
	CreateOptions map[string]any `toml:"createOptions"`
	Auth          RegistryAuth   `toml:"auth"`
}

// RegistryAuth logs in to the registry of the agent's image; zero is anonymous.
type RegistryAuth struct {
	ServerAddress string `toml:"serveraddress"`
	Username      string `toml:"username"`
	Password      Secret `toml:"password"`
}

// URIs of the two APIs: unix:// and a path, or to listen also fd:// and the name of
// a socket unit.
type URIs struct {
	Workload   string `toml:"workload_uri"`
	Management string `toml:"management_uri"`
}

// Watchdog says how often starting the agent may fail.
type Watchdog struct {
	// MaxRetriesValue is "infinite" or a number.
	MaxRetriesValue any `toml:"max_retries"`
	// MaxRetries is the number, -1 for infinite, after Load.
	MaxRetries int `toml:"-"`
}

// Moby holds the original's runtime section: the module network.
type Moby struct {
	// URI is refused unless it names containerd's socket.
	URI string `toml:"uri"`
	// Network is a name, or a table
	// {name, ipv6, ipam = {config = [{subnet, gateway, ip_range}]}}.
	Network any `toml:"network"`
}

// Containerd says where containerd is and how modules are networked. Network and
// subnet may also come from [moby_runtime].
type Containerd struct {
	Address   string `toml:"address"`
	Namespace string `toml:"namespace"`
	Network   string `toml:"network"`
	Subnet    string `toml:"subnet"`
	// CNIBinDir holds the network plugins; empty means where distributions put them.
	CNIBinDir string `toml:"cni_bin_dir"`

	// IPv6 gives modules an address of IPv6 as well; V4 and V6 are the addresses of the
	// module network as far as the file says. All are there after Load.
	IPv6   bool    `toml:"-"`
	V4, V6 IPRange `toml:"-"`
}

// ImageGC says when images that nobody uses are removed.
type ImageGC struct {
	Enabled bool `toml:"enabled"`
	// Recurrence is a number of whole days, as in "1d".
	Recurrence string `toml:"cleanup_recurrence"`
	// Age is how long an image must not have been used, as in "7d".
	Age string `toml:"image_age_cleanup_threshold"`
	// Time is when in the local day, as in "00:00".
	Time string `toml:"cleanup_time"`

	// What the texts say, after Load.
	Days         int           `toml:"-"`
	MinAge       time.Duration `toml:"-"`
	Hour, Minute int           `toml:"-"`
}

// Default returns the configuration before any file is read.
func Default() Config {
	const sockets = "unix:///var/run/iotedge/"
	uris := URIs{Workload: sockets + "workload.sock", Management: sockets + "mgmt.sock"}
	return Config{
		HomeDir:         "/var/lib/aziot/edged",
		AllowElevated:   true,
		CloudTimeoutSec: 70,
		CloudRetries:    1,
		Reprovisioning:  Dynamic,
		MaxRequests:     MaxRequests{Management: 50, Workload: 10},
		Agent: Agent{
			Name: "edgeAgent", Type: "docker", PullPolicy: "on-create",
			Config: AgentConfig{Image: "mcr.microsoft.com/azureiotedge-agent:1.6"},
			Trial:  AgentTrial{Attempts: 3, Settle: "30s", Limit: "2m"},
		},
		Connect:  uris,
		Listen:   uris,
		Watchdog: Watchdog{MaxRetriesValue: "infinite"},
		EdgeCA:   EdgeCA{Days: 90, Issue: Issue{AutoRenew: defaultRenew()}},
		Issuance: Issuance{EST: ESTServer{IdentityAutoRenew: defaultRenew()}},
		TPM:      TPM{TCTI: "device", AuthKeyIndex: 0x100},
		Containerd: Containerd{
			Address:   "/run/containerd/containerd.sock",
			Namespace: "breakwater",
			Network:   "azure-iot-edge",
		},
		ImageGC: ImageGC{Enabled: true, Recurrence: "1d", Age: "7d", Time: "00:00"},
	}
}

// Error is something wrong with the file's content. It never holds a value of a
// secret key.
type Error struct {
	Line   int    // 0 when it concerns no single line
	Key    string // dotted; may be empty for a syntax error
	Reason string
}

// Error returns "line 3: provisioning.source: reason".
func (e *Error) Error() string {
	s := e.Reason
	if e.Key != "" {
		s = e.Key + ": " + s
	}
	if e.Line > 0 {
		s = fmt.Sprintf("line %d: %s", e.Line, s)
	}
	return s
}
