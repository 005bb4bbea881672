package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// Right is a set of what a policy allows.
type Right uint8

// Rights of IoT Hub.
const (
	RegistryRead Right = 1 << iota
	RegistryWrite
	ServiceConnect
	DeviceConnect
)

// Has tells whether r holds one of those in any at least.
func (r Right) Has(any Right) bool { return r&any != 0 }

// Owner is the policy that has all rights.
const Owner = "iothubowner"

// Policy is one shared access policy.
type Policy struct {
	Name               string
	Rights             Right
	Primary, Secondary sas.Key
}

// Policies are those of a hub, by name.
type Policies map[string]Policy

var standard = []Policy{
	{Name: Owner, Rights: RegistryRead | RegistryWrite | ServiceConnect | DeviceConnect},
	{Name: "service", Rights: ServiceConnect},
	{Name: "device", Rights: DeviceConnect},
	{Name: "registryRead", Rights: RegistryRead},
	{Name: "registryReadWrite", Rights: RegistryRead | RegistryWrite},
}

// keyFile is the form of the policies on disk: keys in base64 by policy.
type keyFile map[string]struct {
	Primary   string `json:"primary"`
	Secondary string `json:"secondary"`
}

// LoadPolicies reads the keys of the standard policies from path, and makes the
// file if there is none: with random keys, or with keys that are the same
// everywhere (wellKnown; for tests only, since anybody can know them).
func LoadPolicies(path string, wellKnown bool) (Policies, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if raw, err = newKeys(wellKnown); err == nil {
			err = atomicfile.Write(path, raw, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	var file keyFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("policies: %s is damaged", path)
	}
	all := Policies{}
	for _, p := range standard {
		keys := file[p.Name]
		if p.Primary, err = sas.ParseKey(keys.Primary); err == nil {
			p.Secondary, err = sas.ParseKey(keys.Secondary)
		}
		if err != nil {
			return nil, fmt.Errorf("policies: %s: policy %s: %w", path, p.Name, err)
		}
		all[p.Name] = p
	}
	return all, nil
}

func newKeys(wellKnown bool) ([]byte, error) {
	file := keyFile{}
	for _, p := range standard {
		keys := file[p.Name]
		keys.Primary, keys.Secondary = newKey(wellKnown, p.Name+" primary"), newKey(wellKnown, p.Name+" secondary")
		file[p.Name] = keys
	}
	return json.MarshalIndent(file, "", "  ")
}

func newKey(wellKnown bool, label string) string {
	if wellKnown {
		sum := sha256.Sum256([]byte("breakwater well-known key: " + label))
		return sas.Key(sum[:]).Base64()
	}
	key := make(sas.Key, 32)
	_, _ = rand.Read(key) // never fails, see crypto/rand
	return key.Base64()
}
