package manifest

import "strings"

const dockerHub = "https://index.docker.io/v1/"

func parseRegistries(settings object, opts Options) ([]Registry, error) {
	o, err := settings.optional("registryCredentials")
	if err != nil {
		return nil, err
	}
	var list []Registry
	for _, e := range o.members {
		if isNull(e.value) {
			continue
		}
		entry, err := newObject(o.at(e.key), e.value)
		if err != nil {
			return nil, err
		}
		r := Registry{Name: e.key}
		var password string
		for _, f := range []struct {
			name string
			into *string
		}{{"address", &r.Address}, {"username", &r.Username}, {"password", &password}} {
			if *f.into, err = entry.text(f.name, ""); err != nil {
				return nil, err
			}
			if strings.TrimSpace(*f.into) == "" {
				return nil, invalid(entry.at(f.name), "is required")
			}
		}
		r.Password = Secret(password)
		address, ok := ReplaceUpstream(r.Address, opts.Parent)
		if !ok {
			return nil, invalid(entry.at("address"), "$upstream needs a parent device, and this device has none")
		}
		r.Address = address
		list = append(list, r)
	}
	return list, nil
}

// RegistryOf returns the address of the registry that an image comes from. An
// image of one part comes from Docker Hub.
func RegistryOf(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if ok && strings.ContainsAny(host, ".:") {
		return host
	}
	return dockerHub
}

// Credential returns the first credential for the registry of image, looking
// through lists in turn: the manifest's come before those of the environment.
func Credential(image string, lists ...[]Registry) (Registry, bool) {
	want := RegistryOf(image)
	for _, list := range lists {
		for _, r := range list {
			if strings.EqualFold(r.Address, want) || isDockerHub(r.Address) && isDockerHub(want) {
				return r, true
			}
		}
	}
	return Registry{}, false
}

// isDockerHub knows the spellings of Docker Hub's address in credentials and images.
func isDockerHub(address string) bool {
	switch strings.ToLower(address) {
	case dockerHub, "index.docker.io", "docker.io", "registry-1.docker.io":
		return true
	}
	return false
}
