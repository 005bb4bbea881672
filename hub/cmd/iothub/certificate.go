package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// readCertificate reads a file with one certificate.
func readCertificate(path string) (*x509.Certificate, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if c, err := x509.ParseCertificate(raw); err == nil {
		return c, nil // DER
	}
	c, err := devicecert.Parse(string(raw))
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return c, nil
}

// encodedCertificate is readCertificate in the form of documents; "" for no path.
func encodedCertificate(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	c, err := readCertificate(path)
	if err != nil {
		return "", err
	}
	return rest.EncodeCertificate(c.Raw), nil
}

type certificateAdd struct {
	remote
	Name       string `arg:"" help:"Name for the authority."`
	File       string `arg:"" type:"existingfile" help:"Its certificate, PEM or DER."`
	Unverified bool   `help:"Let it count only after a proof of possession (code, verify)."`
}

// Run adds the authority.
func (a *certificateAdd) Run(ctx context.Context) error {
	text, err := encodedCertificate(a.File)
	if err != nil {
		return err
	}
	return a.use(func(c *rest.Client, _ connstr.String) error {
		_, err := c.PutCertificate(ctx, a.Name, text, !a.Unverified, rest.MustNotExist)
		return asked(err)
	})
}

type certificateList struct {
	remote
	Output string `enum:"table,json" default:"table" help:"Form: ${enum}."`
}

// Run lists authorities.
func (l *certificateList) Run(ctx context.Context, env environment) error {
	return l.use(func(c *rest.Client, _ connstr.String) error {
		list, err := c.ListCertificates(ctx)
		if err != nil {
			return asked(err)
		}
		if l.Output == "json" {
			return printJSON(env.out, list)
		}
		w := tabwriter.NewWriter(env.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tVERIFIED\tENDS\tSUBJECT")
		for _, e := range list {
			fmt.Fprintf(w, "%s\t%v\t%s\t%s\n", e.Name, e.Properties.IsVerified, e.Properties.Expiry.Format(time.DateOnly), e.Properties.Subject)
		}
		return w.Flush()
	})
}

type certificateDelete struct {
	remote
	Name string `arg:"" help:"Name of the authority."`
}

// Run removes the authority.
func (d *certificateDelete) Run(ctx context.Context) error {
	return d.use(func(c *rest.Client, _ connstr.String) error { return asked(c.DeleteCertificate(ctx, d.Name)) })
}

type certificateCode struct {
	remote
	Name string `arg:"" help:"Name of the authority."`
}

// Run prints the code.
func (d *certificateCode) Run(ctx context.Context, env environment) error {
	return d.use(func(c *rest.Client, _ connstr.String) error {
		doc, err := c.CertificateCode(ctx, d.Name)
		if err != nil {
			return asked(err)
		}
		_, err = fmt.Fprintln(env.out, doc.Properties.VerificationCode)
		return err
	})
}

type certificateVerify struct {
	remote
	Name string `arg:"" help:"Name of the authority."`
	File string `arg:"" type:"existingfile" help:"Certificate that the authority has signed, with the code as its common name."`
}

// Run sends the proof.
func (v *certificateVerify) Run(ctx context.Context) error {
	text, err := encodedCertificate(v.File)
	if err != nil {
		return err
	}
	return v.use(func(c *rest.Client, _ connstr.String) error {
		_, err := c.VerifyCertificate(ctx, v.Name, text)
		return asked(err)
	})
}
