// Package legacy reads the config.yaml of IoT Edge 1.1 and says the same in the
// keys of config.toml (spec security-daemon 13, `config import`).
package legacy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MasterKey is the file of the key that version 1.1 sealed the data of modules with. It has
// that name on every device.
const MasterKey = "/var/lib/iotedge/hsm/enc_keys/edgelet-masterWt5mT2xpO72EPKlt2Tt0Sq4uJCrMvfl2rzzKRB3pnyo_.enc.key"

// maxFile bounds a file; real ones have a few KiB.
const maxFile = 1 << 20

// document is config.yaml. Keys that are not in it are refused: a setting that is
// silently dropped may have been the one that mattered.
type document struct {
	Provisioning provisioning `yaml:"provisioning"`
	Certificates struct {
		Cert    string `yaml:"device_ca_cert"`
		Key     string `yaml:"device_ca_pk"`
		Trusted string `yaml:"trusted_ca_certs"`
		Days    int    `yaml:"auto_generated_ca_lifetime_days"`
	} `yaml:"certificates"`
	Agent struct {
		Name   string            `yaml:"name"`
		Type   string            `yaml:"type"`
		Pull   string            `yaml:"imagePullPolicy"`
		Env    map[string]string `yaml:"env"`
		Config struct {
			Image  string            `yaml:"image"`
			Auth   map[string]string `yaml:"auth"`
			Create map[string]any    `yaml:"createOptions"`
		} `yaml:"config"`
	} `yaml:"agent"`
	Hostname string `yaml:"hostname"`
	Parent   string `yaml:"parent_hostname"`
	Watchdog struct {
		Retries any `yaml:"max_retries"`
	} `yaml:"watchdog"`
	Connect uris   `yaml:"connect"`
	Listen  uris   `yaml:"listen"`
	HomeDir string `yaml:"homedir"`
	Moby    struct {
		URI     string `yaml:"uri"`
		Network any    `yaml:"network"`
		Trust   any    `yaml:"content_trust"`
	} `yaml:"moby_runtime"`
}

type uris struct {
	Management string `yaml:"management_uri"`
	Workload   string `yaml:"workload_uri"`
}

type provisioning struct {
	Source         string `yaml:"source"`
	Connection     string `yaml:"device_connection_string"`
	Endpoint       string `yaml:"global_endpoint"`
	Scope          string `yaml:"scope_id"`
	Authentication struct {
		Method string `yaml:"method"`
		Hub    string `yaml:"iothub_hostname"`
		Device string `yaml:"device_id"`
		Cert   string `yaml:"identity_cert"`
		Key    string `yaml:"identity_pk"`
	} `yaml:"authentication"`
	Attestation struct {
		Method string `yaml:"method"`
		ID     string `yaml:"registration_id"`
		Key    string `yaml:"symmetric_key"`
		Cert   string `yaml:"identity_cert"`
		CertPK string `yaml:"identity_pk"`
	} `yaml:"attestation"`
	Always  *bool `yaml:"always_reprovision_on_startup"`
	Dynamic bool  `yaml:"dynamic_reprovisioning"`
}

// Convert returns the document for config.toml, and notes on what was left out
// because it means nothing here. It fails for what is no config.yaml and for what
// this version cannot do; whether the values are right is for package config to say.
// Notes and errors hold no secret.
func Convert(text []byte) (doc map[string]any, notes []string, err error) {
	if len(text) > maxFile {
		return nil, nil, errors.New("file is larger than 1 MiB")
	}
	var old document
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&old); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("not a config.yaml of version 1.1: %w", err)
	}
	c := converter{old: old, doc: map[string]any{}}
	if err := c.provisioning(); err != nil {
		return nil, nil, err
	}
	c.certificates()
	c.agent()
	c.rest()
	return c.doc, c.notes, nil
}

type converter struct {
	old   document
	doc   map[string]any
	notes []string
}

func (c *converter) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// put sets a value of a table unless it is empty.
func put(table map[string]any, key, value string) {
	if value != "" {
		table[key] = value
	}
}

// file turns a path into a URI, as the new keys want it.
func file(s string) string {
	if strings.HasPrefix(s, "/") {
		return "file://" + s
	}
	return s
}

func (c *converter) provisioning() error {
	old := c.old.Provisioning
	p := map[string]any{"source": old.Source}
	c.doc["provisioning"] = p
	switch {
	case old.Source == "dps":
		c.dps(p)
	case old.Source != "manual":
		return fmt.Errorf("provisioning.source %q is not supported, only \"manual\" and \"dps\"", old.Source)
	case old.Authentication.Method == "x509":
		a := old.Authentication
		p["iothub_hostname"], p["device_id"] = a.Hub, a.Device
		p["authentication"] = map[string]any{"method": "x509", "identity_cert": file(a.Cert), "identity_pk": file(a.Key)}
	default:
		p["connection_string"] = old.Connection
	}
	always := old.Source == "dps" && (old.Always == nil || *old.Always)
	mode := "OnErrorOnly"
	if old.Dynamic {
		mode = "Dynamic"
	} else if always {
		mode = "AlwaysOnStartup"
	}
	c.doc["auto_reprovisioning_mode"] = mode
	return nil
}

func (c *converter) dps(p map[string]any) {
	old := c.old.Provisioning
	put(p, "global_endpoint", old.Endpoint)
	p["id_scope"] = old.Scope
	a := map[string]any{"method": old.Attestation.Method}
	put(a, "registration_id", old.Attestation.ID)
	switch old.Attestation.Method {
	case "symmetric_key":
		a["symmetric_key"] = map[string]any{"value": old.Attestation.Key}
	case "x509":
		a["identity_cert"], a["identity_pk"] = file(old.Attestation.Cert), file(old.Attestation.CertPK)
	case "":
		a["method"] = "tpm" // the only one of the first versions
	}
	p["attestation"] = a
}

func (c *converter) certificates() {
	old := c.old.Certificates
	put(c.doc, "trust_bundle_cert", file(old.Trusted))
	ca := map[string]any{}
	put(ca, "cert", file(old.Cert))
	put(ca, "pk", file(old.Key))
	if old.Days > 0 && old.Cert == "" {
		ca["auto_generated_edge_ca_expiry_days"] = old.Days
	}
	if len(ca) > 0 {
		c.doc["edge_ca"] = ca
	}
}

// oldAgents begin images that cannot work with this daemon.
var oldAgents = []string{"mcr.microsoft.com/azureiotedge-agent:1.0", "mcr.microsoft.com/azureiotedge-agent:1.1"}

func (c *converter) agent() {
	old := c.old.Agent
	a := map[string]any{}
	put(a, "name", old.Name)
	put(a, "type", old.Type)
	put(a, "imagePullPolicy", old.Pull)
	cfg := map[string]any{}
	image := old.Config.Image
	for _, name := range oldAgents {
		if image == name || strings.HasPrefix(image, name+".") || strings.HasPrefix(image, name+"-") {
			c.note("agent.config.image %s is too old: the default is taken", image)
			image = ""
		}
	}
	put(cfg, "image", image)
	if len(old.Config.Auth) > 0 {
		cfg["auth"] = old.Config.Auth
	}
	if len(old.Config.Create) > 0 {
		cfg["createOptions"] = old.Config.Create
	}
	if len(cfg) > 0 {
		a["config"] = cfg
	}
	if len(old.Env) > 0 {
		a["env"] = old.Env
	}
	if len(a) > 0 {
		c.doc["agent"] = a
	}
}

// defaultSockets are those of version 1.1; ours are elsewhere or the same.
var defaultSockets = map[string]bool{
	"": true, "fd://iotedge.socket": true, "fd://iotedge.mgmt.socket": true,
	"unix:///var/run/iotedge/mgmt.sock": true, "unix:///var/run/iotedge/workload.sock": true,
}

func (c *converter) rest() {
	old := c.old
	put(c.doc, "hostname", strings.ToLower(old.Hostname))
	put(c.doc, "parent_hostname", strings.ToLower(old.Parent))
	if old.Watchdog.Retries != nil {
		c.doc["watchdog"] = map[string]any{"max_retries": old.Watchdog.Retries}
	}
	for name, u := range map[string]uris{"connect": old.Connect, "listen": old.Listen} {
		if defaultSockets[u.Management] && defaultSockets[u.Workload] {
			continue
		}
		table := map[string]any{}
		put(table, "management_uri", u.Management)
		put(table, "workload_uri", u.Workload)
		c.doc[name] = table
	}
	if old.HomeDir != "" && old.HomeDir != "/var/lib/iotedge" {
		c.note("homedir %s is left out: identities and certificates of version 1.1 cannot be used", old.HomeDir)
	}
	if old.Moby.URI != "" {
		c.note("moby_runtime.uri is left out: modules run on containerd")
	}
	if old.Moby.Trust != nil {
		c.note("moby_runtime.content_trust is left out: see [image_verification]")
	}
	if old.Moby.Network != nil {
		c.doc["moby_runtime"] = map[string]any{"network": old.Moby.Network}
	}
}
