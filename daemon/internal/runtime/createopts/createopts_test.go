package createopts_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

func TestParseIgnoresCase(t *testing.T) {
	opts, warnings, err := createopts.Parse([]byte(`{
		"env": ["A=1"], "HOSTCONFIG": {"privileged": true, "portBindings": {"80/tcp": [{"hostport": "8080"}]},
		"logconfig": {"type": "json-file", "config": {"max-size": "1m"}}},
		"networkingConfig": {"endpointsConfig": {"azure-iot-edge": {"aliases": ["a"]}, "host": null}}}`))
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if !slices.Equal(opts.Env, []string{"A=1"}) || !opts.HostConfig.Privileged ||
		opts.HostConfig.PortBindings["80/tcp"][0].HostPort != "8080" ||
		opts.HostConfig.LogConfig.Config["max-size"] != "1m" ||
		opts.NetworkingConfig.EndpointsConfig["azure-iot-edge"].Aliases[0] != "a" {
		t.Errorf("options %+v", opts)
	}
}

func TestParseAcceptsNothing(t *testing.T) {
	for _, text := range []string{"", "  ", "null", "{}", `{"HostConfig":null,"Env":null,"Cmd":null}`} {
		opts, warnings, err := createopts.Parse([]byte(text))
		if err != nil || len(warnings) != 0 || !reflect.DeepEqual(opts, createopts.Options{}) {
			t.Errorf("%q: %+v %v %v", text, opts, warnings, err)
		}
	}
}

func TestParseWarnsOfTheUnknown(t *testing.T) {
	_, warnings, err := createopts.Parse([]byte(`{"Shell":["x"],"Nothing":null,"Zero":0,
		"HostConfig":{"IOMaximumBandwidth":5,"Mounts":[{},{"Sauce":"x"}],"Sysctls":{"a":"b"}},"Labels":{"any":"thing"}}`))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, w := range warnings {
		paths = append(paths, w.Path)
	}
	if want := []string{"HostConfig.IOMaximumBandwidth", "HostConfig.Mounts[1].Sauce", "Shell"}; !slices.Equal(paths, want) {
		t.Errorf("warnings %q, want %q", paths, want)
	}
}

func TestParseNamesWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                                   "not a JSON object",
		`"{}"`:                                 "not a JSON object",
		`{} {}`:                                "follows",
		`{"Env":"A=1"}`:                        "Env: a JSON string",
		`{"HostConfig":{"Memory":"1g"}}`:       "HostConfig.Memory: a JSON string",
		`{"HostConfig":{"Binds":[1]}}`:         "HostConfig.Binds",
		`{"Labels":{"a":1}}`:                   "Labels",
		`{"Cmd":{"a":1}}`:                      "JSON object",
		`{"HostConfig":`:                       "unexpected",
		`{"HostConfig":{"Memory":1e400}}`:      "HostConfig.Memory",
		`{"StopTimeout":1.5}`:                  "StopTimeout",
		`{"ExposedPorts":{"80/tcp":"string"}}`: "ExposedPorts",
	} {
		_, _, err := createopts.Parse([]byte(text))
		if !errors.Is(err, createopts.ErrSyntax) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}

func TestCommandsMayBeStrings(t *testing.T) {
	opts, _, err := createopts.Parse([]byte(`{"Cmd":"echo hi","Entrypoint":["/a","b"]}`))
	if err != nil || !slices.Equal(opts.Cmd, createopts.Args{"/bin/sh", "-c", "echo hi"}) || !slices.Equal(opts.Entrypoint, createopts.Args{"/a", "b"}) {
		t.Errorf("%+v, %v", opts, err)
	}
	opts, _, err = createopts.Parse([]byte(`{"Entrypoint":[]}`))
	if err != nil || opts.Entrypoint == nil || opts.Cmd != nil {
		t.Errorf("empty and absent are mixed up: %+v, %v", opts, err)
	}
}

func TestOptionsWinOverTheModulesEnvironment(t *testing.T) {
	opts := createopts.Options{Env: []string{"B=options", "GONE"}}
	err := opts.AddEnv([]createopts.EnvVar{{Key: "A", Value: "x=y"}, {Key: "B", Value: "module"}, {Key: "GONE", Value: "1"}, {Key: "C"}})
	if want := []string{"A=x=y", "C=", "B=options", "GONE"}; err != nil || !slices.Equal(opts.Env, want) {
		t.Errorf("env %q, %v, want %q", opts.Env, err, want)
	}
}

func TestAddEnvRefuses(t *testing.T) {
	for name, vars := range map[string][]createopts.EnvVar{
		"a key twice":   {{Key: "A", Value: "1"}, {Key: "A", Value: "1"}},
		"no key":        {{Value: "x"}},
		"a bad key":     {{Key: "A=B"}},
		"a zero byte":   {{Key: "A", Value: "\x00"}},
		"zero in a key": {{Key: "A\x00"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := new(createopts.Options).AddEnv(vars); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestDropElevated(t *testing.T) {
	shared := []string{"KILL", "SETUID"}
	o := createopts.Options{HostConfig: createopts.HostConfig{Privileged: true, CapAdd: []string{"SYS_ADMIN"}, CapDrop: shared[:1]}}
	o.DropElevated()
	if o.HostConfig.Privileged || o.HostConfig.CapAdd != nil || !slices.Equal(o.HostConfig.CapDrop, []string{"KILL", "CHOWN", "SETUID"}) {
		t.Errorf("%+v", o.HostConfig)
	}
	if shared[1] != "SETUID" {
		t.Error("the caller's slice was written to")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"env":["A=1"],"HostConfig":{"Binds":["/a:/b:ro"],"PortBindings":{"80/tcp":[{"HostPort":"80"}]}}}`,
		`{"Cmd":"x","Entrypoint":[""],"NetworkingConfig":{"EndpointsConfig":{"host":{}}}}`,
		`{"HostConfig":{"Mounts":[{"Type":"tmpfs","Target":"/x","TmpfsOptions":{"SizeBytes":5}}],"MaskedPaths":[]}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		opts, _, err := createopts.Parse(data)
		if err != nil {
			return
		}
		// What was read can be written and read again, and means the same.
		text, err := json.Marshal(opts)
		if err != nil {
			t.Fatal(err)
		}
		again, warnings, err := createopts.Parse(text)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%s: %v %v", text, warnings, err)
		}
		if !reflect.DeepEqual(again.Cmd, opts.Cmd) || !reflect.DeepEqual(again.Entrypoint, opts.Entrypoint) || !slices.Equal(again.Env, opts.Env) {
			t.Errorf("%+v became %+v", opts, again)
		}
		second, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		// Writing drops empty members, after which nothing may change any more.
		final, _, err := createopts.Parse(second)
		if err != nil {
			t.Fatal(err)
		}
		if third, err := json.Marshal(final); err != nil || string(third) != string(second) {
			t.Errorf("%s became %s (%v)", second, third, err)
		}
	})
}
