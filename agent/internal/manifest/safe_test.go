package manifest_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

func withAgentEnv(env string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"$version":3,"schemaVersion":"1.1","runtime":{"type":"docker"},
		"systemModules":{"edgeAgent":{"type":"docker","env":%s,"settings":{"image":"agent:1"}}}}`, env))
}

func TestSafeDeploymentSettings(t *testing.T) {
	for env, want := range map[string]*manifest.Safe{
		`{}`: nil,
		`{"SafeDeployment":{"value":"false"},"SafeDeploymentTimeoutSecs":{"value":"60"}}`:                                     nil,
		`{"SafeDeployment":{"value":"true"}}`:                                                                                 {Timeout: 5 * time.Minute, Settle: 30 * time.Second},
		`{"SAFEDEPLOYMENT":{"value":true},"safedeploymenttimeoutsecs":{"value":60},"SafeDeploymentSettleSecs":{"value":"5"}}`: {Timeout: time.Minute, Settle: 5 * time.Second},
	} {
		d, err := manifest.Parse(withAgentEnv(env), manifest.Options{})
		if err != nil {
			t.Fatalf("%s: %v", env, err)
		}
		if (d.Safe == nil) != (want == nil) || want != nil && *d.Safe != *want {
			t.Errorf("%s: %+v, want %+v", env, d.Safe, want)
		}
		if n := len(d.Modules["edgeAgent"].Env); n != 0 {
			t.Errorf("%s: %d variables are left in the environment, so a change would replace the agent", env, n)
		}
	}
	for _, env := range []string{
		`{"SafeDeployment":{"value":"perhaps"}}`,
		`{"SafeDeployment":{"value":"true"},"SafeDeploymentTimeoutSecs":{"value":"0"}}`,
		`{"SafeDeployment":{"value":"true"},"SafeDeploymentTimeoutSecs":{"value":"1e3"}}`,
		`{"SafeDeployment":{"value":"true"},"SafeDeploymentTimeoutSecs":{"value":"30"},"SafeDeploymentSettleSecs":{"value":"30"}}`,
	} {
		_, err := manifest.Parse(withAgentEnv(env), manifest.Options{})
		if e, ok := manifest.AsError(err); !ok || e.Code != manifest.CodeFormat {
			t.Errorf("%s: %v", env, err)
		}
	}
}

func TestContentIsComparedWithoutVersionAndManner(t *testing.T) {
	parse := func(env string) *manifest.Deployment {
		d, err := manifest.Parse(withAgentEnv(env), manifest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a, b, safe := parse(`{}`), parse(`{}`), parse(`{"SafeDeployment":{"value":"true"}}`)
	b.Version = 9
	if !a.SameContent(b) || a.Version != 3 {
		t.Error("the version counts as content")
	}
	if a.SameContent(safe) || !a.SameWork(safe) {
		t.Error("the manner of deploying is content, and no work")
	}
	if other := parse(`{"K":{"value":"v"}}`); a.SameContent(other) || a.SameWork(other) {
		t.Error("another environment is the same")
	}
}
