package hubrig

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
)

// What follows is what a client that is not ours needs to find the two hubs.

// CloudAddress is the host that iothub serves at, on all its ports. It is also the
// name of the hub.
func (r *Rig) CloudAddress() string { return r.net.hub }

// EdgeAddress is the host that edgehub serves at.
func (r *Rig) EdgeAddress() string { return r.net.edge }

// CloudRoot is the file with the certificate that iothub's clients must trust.
func (r *Rig) CloudRoot() string { return r.cloudRoot() }

// Owner is the connection string of a policy with all rights.
func (r *Rig) Owner() string { return r.owner }

// WriteEdgeRoot writes the certificate that edgehub's clients must trust into the
// rig's folder and returns the file's name.
func (r *Rig) WriteEdgeRoot() (string, error) {
	file := filepath.Join(r.o.Dir, "edge-root.pem")
	return file, os.WriteFile(file, r.workload.root(), 0o600)
}

// ModuleConnection is the connection string of a module, by way of edgehub.
func (r *Rig) ModuleConnection(module string) string {
	return fmt.Sprintf("HostName=%s;DeviceId=%s;ModuleId=%s;SharedAccessKey=%s;GatewayHostName=%s",
		r.net.hub, EdgeID, module, base64.StdEncoding.EncodeToString(r.keys[module]), r.net.edge)
}

// ModuleKey is the key of a module.
func (r *Rig) ModuleKey(module string) []byte { return r.keys[module] }
