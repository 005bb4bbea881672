package launch

import (
	"errors"
	"strings"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

// addBinds gives the module its own workload socket, and the agent the management
// socket too.
func (h Host) addBinds(m manifest.Module, options map[string]any) error {
	var binds []string
	if target, ok := strings.CutPrefix(h.WorkloadURI, "unix://"); ok {
		source := target
		if dir, ok := strings.CutPrefix(h.SocketsURI, "unix://"); ok && dir != "" {
			source = strings.TrimSuffix(dir, "/") + "/" + m.Name + ".sock"
		}
		binds = append(binds, source+":"+target)
	}
	if m.Name == manifest.AgentName {
		if path, ok := strings.CutPrefix(h.ManagementURI, "unix://"); ok {
			binds = append(binds, path+":"+path)
		}
	}
	if len(binds) == 0 {
		return nil
	}
	host, err := object(options, "HostConfig")
	if err != nil {
		return err
	}
	list, ok := host["Binds"].([]any)
	if !ok && host["Binds"] != nil {
		return errors.New("HostConfig.Binds must be a list")
	}
	for _, b := range binds {
		if !contains(list, b) {
			list = append(list, b)
		}
	}
	host["Binds"] = list
	return nil
}

func contains(list []any, bind string) bool {
	for _, v := range list {
		s, _ := v.(string)
		if s == bind || strings.HasPrefix(s, bind+":") {
			return true
		}
	}
	return false
}

// addNetwork joins the module network unless the manifest chose networks itself,
// or a network mode that allows no other.
func (h Host) addNetwork(m manifest.Module, options map[string]any) error {
	if h.NetworkID == "" {
		return nil
	}
	if host, ok := options["HostConfig"].(map[string]any); ok {
		mode, _ := host["NetworkMode"].(string)
		if mode == "host" || mode == "none" || strings.HasPrefix(mode, "container:") {
			return nil
		}
	}
	networking, err := object(options, "NetworkingConfig")
	if err != nil {
		return err
	}
	if networking["EndpointsConfig"] != nil {
		return nil
	}
	endpoint := map[string]any{}
	if m.Name == manifest.HubName && h.HostName != "" {
		endpoint["Aliases"] = []any{h.HostName}
	}
	networking["EndpointsConfig"] = map[string]any{h.NetworkID: endpoint}
	return nil
}
