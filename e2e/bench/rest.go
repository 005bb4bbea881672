package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// restAfter is how long the programs of a device are left alone before their memory
// is read: what they needed to start is free again then.
const restAfter = 45 * time.Second

// rest brings up a device with no modules but those of the system, in containers, and
// reads what its programs have resident.
func rest(ctx context.Context, o Options) (bars []Bar, err error) {
	manifest := o.dir("system-modules.json")
	if err := systemModules(filepath.Join(o.Root, "deploy", "manifests", "development.json"), manifest); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, err
	}
	r, err := rig.New(ctx, rig.Options{Root: root, Manifest: manifest, Dir: o.dir("device"), Say: func(line string) { o.Say("%s", line) }})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	limited, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if _, err := r.Bring(limited); err != nil {
		return nil, err
	}
	o.Say("leaving the device alone for %v", restAfter)
	pids, err := r.PIDs(ctx)
	if err != nil {
		return nil, err
	}
	pids["edged"] = r.Edged().PID()
	programs := []struct {
		process, name string
		limit         int64
	}{{"edged", "edged", 25e6}, {"edgeAgent", "edgeagent", 15e6}, {"edgeHub", "edgehub", 25e6}}
	read := make(map[string][]int64)
	last := make(map[string]memory)
	for i := range o.Rounds { // in one process: between rounds the garbage collector runs
		wait := 5 * time.Second
		if i == 0 {
			wait = restAfter
		}
		if !pause(ctx, wait) {
			return nil, ctx.Err()
		}
		for _, p := range programs {
			m, err := memoryOf(pids[p.process])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			read[p.name], last[p.name] = append(read[p.name], m.all()), m
		}
	}
	peaks := r.PeakMemory()
	w := table(o.Out)
	fmt.Fprintln(w, "program\tresident at rest\tof its own\tmost since its start\t")
	for _, p := range programs {
		got := medianOf(read[p.name])
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", p.name, megabytes(got), megabytes(last[p.name].own), megabytes(int64(peaks[p.process])<<10))
		bars = append(bars, Bar{p.name + " at rest on a device", "at most " + fmt.Sprint(p.limit/1e6) + " MB", megabytes(got), got <= p.limit})
	}
	fmt.Fprintf(w, "\na device with no modules of its own, %v after its start; median of %d readings\n", restAfter, o.Rounds)
	return bars, w.Flush()
}

// systemModules writes a manifest without all modules but those of the system.
func systemModules(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	type twin = map[string]map[string]any
	var manifest map[string]map[string]twin
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return err
	}
	content := manifest["modulesContent"]
	for name := range content {
		if name[0] != '$' {
			delete(content, name)
		}
	}
	content["$edgeAgent"]["properties.desired"]["modules"] = map[string]any{}
	content["$edgeHub"]["properties.desired"]["routes"] = map[string]any{}
	if raw, err = json.Marshal(manifest); err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o600)
}
