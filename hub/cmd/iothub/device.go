package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// identityConnection makes the connection string of an identity.
func identityConnection(login connstr.String, id iothub.Identity, auth *rest.Authentication, gateway string) (string, error) {
	out := connstr.String{HostName: login.HostName, DeviceID: id.Device, ModuleID: id.Module, GatewayHostName: gateway}
	if auth == nil {
		auth = &rest.Authentication{}
	}
	switch auth.Type {
	case rest.AuthSAS:
		key, err := sas.ParseKey(auth.SymmetricKey.PrimaryKey.Reveal())
		if err != nil {
			return "", fmt.Errorf("key of %s: %w", id, err)
		}
		out.SharedAccessKey = key
	case rest.AuthSelfSigned, rest.AuthCertificate:
		out.X509 = true
	default:
		return "", fmt.Errorf("%s has no credentials yet", id)
	}
	return out.Reveal(), nil
}

type deviceCreate struct {
	remote
	ID      string `arg:"" help:"Device id."`
	Edge    bool   `help:"Make it an edge device."`
	Parent  string `help:"Edge device to put it under."`
	Gateway string `help:"Host name of the gateway that it connects to, for the connection string."`
	authFlags
}

// authFlags say how a device authenticates.
type authFlags struct {
	Auth                 string `enum:"sas,x509,x509-ca" default:"sas" help:"How it authenticates: ${enum} (keys; certificates by thumbprint; signed by an authority of the hub)."`
	Certificate          string `type:"existingfile" help:"With x509: its certificate, PEM or DER."`
	SecondaryCertificate string `type:"existingfile" help:"With x509: a second certificate."`
	PrimaryThumbprint    string `help:"With x509, in place of the certificate: SHA-1 or SHA-256 in hexadecimal."`
	SecondaryThumbprint  string `help:"With x509, in place of the second certificate."`
}

// authentication makes the document's part; nil means keys that the hub makes.
func (f *authFlags) authentication() (*rest.Authentication, error) {
	given := f.Certificate + f.SecondaryCertificate + f.PrimaryThumbprint + f.SecondaryThumbprint
	switch {
	case f.Auth != "x509" && given != "":
		return nil, usageError{errors.New("certificates and thumbprints need --auth x509")}
	case f.Auth == "x509-ca":
		return &rest.Authentication{Type: rest.AuthCertificate}, nil
	case f.Auth != "x509":
		return nil, nil
	case f.Certificate != "" && f.PrimaryThumbprint != "", f.SecondaryCertificate != "" && f.SecondaryThumbprint != "":
		return nil, usageError{errors.New("give the certificate or its thumbprint, not both")}
	}
	a := &rest.Authentication{Type: rest.AuthSelfSigned}
	for _, t := range []struct {
		path, text string
		to         *rest.Text
	}{
		{f.Certificate, f.PrimaryThumbprint, &a.X509Thumbprint.PrimaryThumbprint},
		{f.SecondaryCertificate, f.SecondaryThumbprint, &a.X509Thumbprint.SecondaryThumbprint},
	} {
		if *t.to = rest.Text(t.text); t.path != "" {
			c, err := readCertificate(t.path)
			if err != nil {
				return nil, err
			}
			_, s256 := devicecert.Thumbprints(c)
			*t.to = rest.Text(s256)
		}
	}
	return a, nil
}

// Run creates the device.
func (d *deviceCreate) Run(ctx context.Context, env environment) error {
	if err := iothub.CheckID(d.ID); err != nil {
		return usageError{fmt.Errorf("device id: %w", err)}
	}
	auth, err := d.authentication()
	if err != nil {
		return err
	}
	return d.use(func(c *rest.Client, login connstr.String) error {
		doc := rest.Device{DeviceID: d.ID, Status: rest.Enabled, Capabilities: &rest.Capabilities{IoTEdge: d.Edge}, Authentication: auth}
		if d.Parent != "" {
			parent, err := c.GetDevice(ctx, d.Parent)
			if err != nil {
				return asked(err)
			}
			if !parent.IsEdge() {
				return usageError{fmt.Errorf("parent %s is not an edge device", d.Parent)}
			}
			doc.ParentScopes = []string{parent.DeviceScope}
			if !d.Edge {
				doc.DeviceScope = parent.DeviceScope
			}
		}
		created, err := c.PutDevice(ctx, doc, rest.MustNotExist)
		if err != nil {
			return asked(err)
		}
		text, err := identityConnection(login, iothub.DeviceIdentity(d.ID), created.Authentication, d.Gateway)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(env.out, text)
		return err
	})
}

type deviceDelete struct {
	remote
	ID string `arg:"" help:"Device id."`
}

// Run deletes the device.
func (d *deviceDelete) Run(ctx context.Context) error {
	return d.use(func(c *rest.Client, _ connstr.String) error {
		return asked(c.DeleteDevice(ctx, d.ID, rest.MustExist))
	})
}

type deviceList struct {
	remote
	Output string `enum:"table,json" default:"table" help:"Form: ${enum}."`
}

// Run lists devices.
func (d *deviceList) Run(ctx context.Context, env environment) error {
	return d.use(func(c *rest.Client, _ connstr.String) error {
		list, err := c.ListDevices(ctx, 0)
		if err != nil {
			return asked(err)
		}
		if d.Output == "json" {
			return printJSON(env.out, list)
		}
		w := tabwriter.NewWriter(env.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "DEVICE\tSTATUS\tCONNECTION\tEDGE\tPARENT")
		for i := range list {
			parent := ""
			if len(list[i].ParentScopes) > 0 {
				parent = list[i].ParentScopes[0]
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%s\n", list[i].DeviceID, list[i].Status, list[i].ConnectionState, list[i].IsEdge(), parent)
		}
		return w.Flush()
	})
}

type deviceShow struct {
	remote
	ID string `arg:"" help:"Device id."`
}

// Run prints the device.
func (d *deviceShow) Run(ctx context.Context, env environment) error {
	return d.use(func(c *rest.Client, _ connstr.String) error {
		doc, err := c.GetDevice(ctx, d.ID)
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, doc)
	})
}

type deviceConnectionString struct {
	remote
	ID      string `arg:"" help:"Device id."`
	Module  string `arg:"" optional:"" help:"Module id."`
	Gateway string `help:"Host name of the gateway that it connects to."`
}

// Run prints the connection string.
func (d *deviceConnectionString) Run(ctx context.Context, env environment) error {
	return d.use(func(c *rest.Client, login connstr.String) error {
		id := iothub.Identity{Device: d.ID, Module: d.Module}
		auth, err := authentication(ctx, c, id)
		if err != nil {
			return asked(err)
		}
		text, err := identityConnection(login, id, auth, d.Gateway)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(env.out, text)
		return err
	})
}

func authentication(ctx context.Context, c *rest.Client, id iothub.Identity) (*rest.Authentication, error) {
	if id.IsModule() {
		m, err := c.GetModule(ctx, id)
		return m.Authentication, err
	}
	d, err := c.GetDevice(ctx, id.Device)
	return d.Authentication, err
}

type moduleList struct {
	remote
	Device string `arg:"" help:"Device id."`
	Output string `enum:"table,json" default:"table" help:"Form: ${enum}."`
}

// Run lists modules.
func (m *moduleList) Run(ctx context.Context, env environment) error {
	return m.use(func(c *rest.Client, _ connstr.String) error {
		list, err := c.ListModules(ctx, m.Device)
		if err != nil {
			return asked(err)
		}
		if m.Output == "json" {
			return printJSON(env.out, list)
		}
		w := tabwriter.NewWriter(env.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "MODULE\tCONNECTION\tMANAGED BY\tAUTHENTICATION")
		for i := range list {
			kind := ""
			if list[i].Authentication != nil {
				kind = list[i].Authentication.Type
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", list[i].ModuleID, list[i].ConnectionState, list[i].ManagedBy, kind)
		}
		return w.Flush()
	})
}

type moduleShow struct {
	remote
	Device string `arg:"" help:"Device id."`
	Module string `arg:"" help:"Module id."`
}

// Run prints the module.
func (m *moduleShow) Run(ctx context.Context, env environment) error {
	if m.Module == "" {
		return usageError{errors.New("module id is empty")}
	}
	return m.use(func(c *rest.Client, _ connstr.String) error {
		doc, err := c.GetModule(ctx, iothub.ModuleIdentity(m.Device, m.Module))
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, doc)
	})
}
