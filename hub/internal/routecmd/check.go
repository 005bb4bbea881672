package routecmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
)

// maxManifest bounds the file that Check reads.
const maxManifest = 16 << 20

// ErrInvalid is wrapped by the error of Check if the routes would be refused.
var ErrInvalid = errors.New("the configuration would be refused")

// manifest is the part of a deployment manifest that leads to the routes.
type manifest struct {
	// Content is the whole of an automatic deployment's "content", if it is there.
	Content        *manifest `json:"content"`
	ModulesContent map[string]struct {
		Desired json.RawMessage `json:"properties.desired"`
	} `json:"modulesContent"`
}

// Check reads a deployment manifest, or the bare desired properties of $edgeHub,
// and writes what each route would do on the given edge device. If the hub would
// refuse the configuration, it writes all faults and returns an error that wraps
// ErrInvalid. An edgeDevice of "" stands for any.
func Check(r io.Reader, w io.Writer, edgeDevice string) error {
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	if len(data) > maxManifest {
		return fmt.Errorf("read manifest: larger than %d bytes", maxManifest)
	}
	desired, err := desiredOf(data)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	cfg, problem := route.ParseConfig(desired)
	if problem != nil {
		writeProblems(&out, problem)
		problem = fmt.Errorf("%w", ErrInvalid)
	} else {
		if edgeDevice == "" {
			edgeDevice = "{edgeDevice}"
		}
		writeConfig(&out, cfg, edgeDevice)
	}
	if _, err := out.WriteTo(w); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return problem
}

// desiredOf finds the desired properties of $edgeHub.
func desiredOf(data []byte) (json.RawMessage, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	content := m.ModulesContent
	if content == nil && m.Content != nil {
		content = m.Content.ModulesContent
	}
	if content == nil {
		return data, nil
	}
	hub, ok := content["$edgeHub"]
	if !ok || len(hub.Desired) == 0 {
		return nil, errors.New(`read manifest: no modulesContent.$edgeHub."properties.desired"`)
	}
	return hub.Desired, nil
}

func writeProblems(w io.Writer, err error) {
	var faults *route.ConfigError
	if !errors.As(err, &faults) {
		fmt.Fprintf(w, "refused: %v\n", err)
		return
	}
	fmt.Fprintln(w, "refused: the hub would keep its earlier configuration")
	for _, p := range faults.Problems {
		if p.Path == "" {
			fmt.Fprintf(w, "  %v\n", p.Err)
			continue
		}
		fmt.Fprintf(w, "  %s: %v\n", p.Path, p.Err)
	}
}

func writeConfig(w io.Writer, cfg *route.Config, edgeDevice string) {
	fmt.Fprintf(w, "ok: schema version %s, routes: %d\n", cfg.SchemaVersion, len(cfg.Routes))
	fmt.Fprintf(w, "time to live: %s\n", lifetime(cfg.TTL))
	if cfg.MaxSizeBytes > 0 {
		fmt.Fprintf(w, "store limit: %d bytes, for a store in memory\n", cfg.MaxSizeBytes)
	}
	for _, r := range cfg.Routes {
		fmt.Fprintf(w, "\n%s\n", r.Name)
		fmt.Fprintf(w, "  from      %s\n", r.Route.Source)
		if r.Route.Condition != "true" {
			fmt.Fprintf(w, "  where     %s\n", strings.ReplaceAll(r.Route.Condition, "\n", "\n            "))
		}
		fmt.Fprintf(w, "  to        %s\n", target(r.Route.Sink, edgeDevice))
		if r.Priority != route.DefaultPriority {
			fmt.Fprintf(w, "  priority  %d\n", r.Priority)
		}
		if r.TTL != 0 {
			fmt.Fprintf(w, "  lifetime  %s\n", lifetime(r.TTL))
		}
		for _, warning := range r.Route.Warnings {
			fmt.Fprintf(w, "  warning   %s\n", warning)
		}
	}
}

func target(s route.Sink, edgeDevice string) string {
	if s.Upstream {
		return "upstream"
	}
	return fmt.Sprintf("module %s, input %s (endpoint %s)", s.Module, s.Input, s.EndpointID(edgeDevice))
}

func lifetime(d time.Duration) string {
	switch {
	case d < 0:
		return "messages never expire"
	case d == 0:
		return "0s: messages expire at once"
	}
	return d.String()
}
