package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

type twinShow struct {
	remote
	Device string `arg:"" help:"Device id."`
	Module string `arg:"" optional:"" help:"Module id."`
}

// Run prints the twin.
func (t *twinShow) Run(ctx context.Context, env environment) error {
	return t.use(func(c *rest.Client, _ connstr.String) error {
		doc, err := c.GetTwin(ctx, iothub.Identity{Device: t.Device, Module: t.Module})
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, doc)
	})
}

type twinPatch struct {
	remote
	Device  string `arg:"" help:"Device id."`
	Module  string `arg:"" optional:"" help:"Module id."`
	Desired string `help:"Patch of the desired properties: JSON, @FILE, or - for the standard input."`
	Tags    string `help:"Patch of the tags: JSON, @FILE, or - for the standard input."`
	IfMatch string `help:"Write only if the twin has this etag."`
}

// Run patches the twin and prints the new one.
func (t *twinPatch) Run(ctx context.Context, env environment) error {
	var patch rest.TwinPatch
	if t.Desired == "" && t.Tags == "" {
		return usageError{errors.New("nothing to change: give --desired or --tags")}
	}
	if t.Desired != "" {
		raw, err := jsonArgument(env, "--desired", t.Desired)
		if err != nil {
			return err
		}
		patch = rest.DesiredPatch(raw)
	}
	if t.Tags != "" {
		var err error
		if patch.Tags, err = jsonArgument(env, "--tags", t.Tags); err != nil {
			return err
		}
	}
	return t.use(func(c *rest.Client, _ connstr.String) error {
		doc, err := c.PatchTwin(ctx, iothub.Identity{Device: t.Device, Module: t.Module}, patch, t.IfMatch)
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, doc)
	})
}

type deployCommand struct {
	remote
	Device string `required:"" help:"Edge device."`
	File   string `arg:"" help:"Manifest: {\"modulesContent\":...}, or that within {\"content\":...}; - for the standard input."`
}

// Run applies the manifest.
func (d *deployCommand) Run(ctx context.Context, env environment) error {
	content, err := readManifest(env, d.File)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.File, err)
	}
	return d.use(func(c *rest.Client, _ connstr.String) error {
		return asked(c.ApplyConfiguration(ctx, d.Device, content))
	})
}

func readManifest(env environment, file string) (rest.ConfigurationContent, error) {
	var raw []byte
	var err error
	if file == "-" {
		raw, err = argument(env, "-")
	} else {
		raw, err = os.ReadFile(file)
	}
	if err != nil {
		return rest.ConfigurationContent{}, err
	}
	var in struct {
		Content *rest.ConfigurationContent `json:"content"`
		rest.ConfigurationContent
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return rest.ConfigurationContent{}, usageError{err}
	}
	if in.Content != nil && in.ModulesContent == nil {
		in.ConfigurationContent = *in.Content
	}
	if len(in.ModulesContent) == 0 {
		return rest.ConfigurationContent{}, usageError{errors.New("no modulesContent in it")}
	}
	return in.ConfigurationContent, nil
}

type methodCommand struct {
	remote
	Target         []string `arg:"" name:"target" help:"DEVICE [MODULE] NAME."`
	Payload        string   `help:"Payload: JSON, @FILE, or - for the standard input."`
	Timeout        int      `default:"30" help:"Seconds to wait for the answer."`
	ConnectTimeout int      `help:"Seconds to wait for the device to come online."`
}

// Run calls the method.
func (m *methodCommand) Run(ctx context.Context, env environment) error {
	if n := len(m.Target); n < 2 || n > 3 {
		return usageError{errors.New("expected DEVICE [MODULE] NAME")}
	}
	id := iothub.DeviceIdentity(m.Target[0])
	if len(m.Target) == 3 {
		id.Module = m.Target[1]
	}
	call := rest.MethodRequest{MethodName: m.Target[len(m.Target)-1], ResponseTimeoutInSeconds: m.Timeout, ConnectTimeoutInSeconds: m.ConnectTimeout}
	if m.Payload != "" {
		var err error
		if call.Payload, err = jsonArgument(env, "--payload", m.Payload); err != nil {
			return err
		}
	}
	return m.use(func(c *rest.Client, _ connstr.String) error {
		result, err := c.InvokeMethod(ctx, id, call)
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, result)
	})
}
