package settings

import (
	"encoding/json"
	"strings"
)

// localRoute is the route of a local configuration that names none.
const localRoute = "FROM /* INTO $upstream"

// localConfig makes desired properties of the variables routes__<name>, as if they
// were those of the twin: messages never expire (spec edgehub-routing 1.4).
func localConfig(environ []string) []byte {
	routes := make(map[string]string)
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		const prefix = "routes__"
		if len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			routes[name[len(prefix):]] = value
		}
	}
	if len(routes) == 0 {
		routes["r1"] = localRoute
	}
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": "1.0", "routes": routes, "storeAndForwardConfiguration": map[string]int{"timeToLiveSecs": -1},
	})
	if err != nil {
		return nil // strings always marshal
	}
	return raw
}
