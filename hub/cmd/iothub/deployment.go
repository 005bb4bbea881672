package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

type deploymentCreate struct {
	remote
	ID        string `arg:"" help:"Id: lower-case letters, digits and -."`
	File      string `arg:"" help:"Manifest: {\"modulesContent\":...}, or that within {\"content\":...}; - for the standard input."`
	Condition string `required:"" help:"Condition on the device twin, as \"tags.place='hall'\", or * for all edge devices."`
	Priority  int    `help:"Where several hold, the greatest is in force."`
}

// Run creates the deployment and prints it.
func (d *deploymentCreate) Run(ctx context.Context, env environment) error {
	content, err := readManifest(env, d.File)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.File, err)
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.File, err)
	}
	doc := rest.Configuration{ID: d.ID, SchemaVersion: "2.0", Content: raw, TargetCondition: d.Condition, Priority: d.Priority}
	return d.use(func(c *rest.Client, _ connstr.String) error {
		made, err := c.PutConfiguration(ctx, doc, rest.MustNotExist)
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, made)
	})
}

type deploymentList struct{ remote }

// Run prints a deployment a line.
func (d *deploymentList) Run(ctx context.Context, env environment) error {
	return d.use(func(c *rest.Client, _ connstr.String) error {
		all, err := c.ListConfigurations(ctx)
		if err != nil {
			return asked(err)
		}
		w := tabwriter.NewWriter(env.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tPRIORITY\tCONDITION\tTARGETED\tAPPLIED\tSUCCESSFUL\tFAILED")
		for _, v := range all {
			n := v.SystemMetrics.Results
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%d\t%d\n", v.ID, v.Priority, v.TargetCondition,
				n["targetedCount"], n["appliedCount"], n["reportedSuccessfulCount"], n["reportedFailedCount"])
		}
		return w.Flush()
	})
}

type deploymentShow struct {
	remote
	ID string `arg:"" help:"Id of the deployment."`
}

// Run prints the deployment.
func (d *deploymentShow) Run(ctx context.Context, env environment) error {
	return d.use(func(c *rest.Client, _ connstr.String) error {
		doc, err := c.GetConfiguration(ctx, d.ID)
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, doc)
	})
}

type deploymentDelete struct {
	remote
	ID string `arg:"" help:"Id of the deployment."`
}

// Run removes the deployment.
func (d *deploymentDelete) Run(ctx context.Context, _ environment) error {
	return d.use(func(c *rest.Client, _ connstr.String) error { return asked(c.DeleteConfiguration(ctx, d.ID)) })
}
