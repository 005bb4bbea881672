package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// enrollmentFlags are what individual enrollments and groups have in common.
type enrollmentFlags struct {
	PrimaryKey   string `help:"Symmetric key in base64 (the hub makes one by default)."`
	SecondaryKey string `help:"Second symmetric key."`

	Certificate          string   `type:"existingfile" help:"Certificate of the device or, for a group, of an authority; PEM or DER."`
	SecondaryCertificate string   `type:"existingfile" help:"Second certificate, for a change."`
	CA                   []string `name:"authority" help:"Name of an authority of the hub (certificate add), in place of a certificate; once or twice."`

	Edge        bool   `help:"Devices are edge devices."`
	Parent      string `help:"Edge device to put devices under."`
	InitialTwin string `name:"initial-twin" help:"Initial tags and desired properties: JSON, @file or - for standard input."`
	Reprovision string `enum:"migrate,reset,never" default:"migrate" help:"What happens when a device registers again: ${enum}."`
	Disabled    bool   `help:"Let nobody in."`
}

// terms makes the document's common part.
func (f *enrollmentFlags) terms(ctx context.Context, env environment, c *rest.Client, group bool) (rest.EnrollmentTerms, error) {
	t := rest.EnrollmentTerms{Capabilities: &rest.Capabilities{IoTEdge: f.Edge}, ProvisioningStatus: rest.Enabled,
		ReprovisionPolicy: &rest.ReprovisionPolicy{UpdateHubAssignment: f.Reprovision != "never", MigrateDeviceData: f.Reprovision == "migrate"}}
	if f.Disabled {
		t.ProvisioningStatus = rest.Disabled
	}
	var err error
	if f.InitialTwin != "" {
		if t.InitialTwin, err = jsonArgument(env, "initial twin", f.InitialTwin); err != nil {
			return t, err
		}
	}
	if f.Parent != "" {
		parent, err := c.GetDevice(ctx, f.Parent)
		if err != nil {
			return t, asked(err)
		}
		if !parent.IsEdge() {
			return t, usageError{fmt.Errorf("parent %s is not an edge device", f.Parent)}
		}
		t.ParentScopes = []string{parent.DeviceScope}
	}
	t.Attestation, err = f.attestation(group)
	return t, err
}

func (f *enrollmentFlags) attestation(group bool) (rest.Attestation, error) {
	keys, certificates := f.PrimaryKey+f.SecondaryKey != "", f.Certificate+f.SecondaryCertificate != ""
	switch {
	case keys && (certificates || len(f.CA) > 0), certificates && len(f.CA) > 0:
		return rest.Attestation{}, usageError{errors.New("give keys, certificates or authorities, not several")}
	case len(f.CA) > 2:
		return rest.Attestation{}, usageError{errors.New("there are two authorities at most")}
	case len(f.CA) > 0:
		refs := &rest.CAReferences{Primary: f.CA[0]}
		if len(f.CA) == 2 {
			refs.Secondary = f.CA[1]
		}
		return rest.Attestation{Type: rest.AttestX509, X509: &rest.X509Attestation{CAReferences: refs}}, nil
	case certificates:
		pair := &rest.X509Pair{}
		for _, c := range []struct {
			path string
			to   **rest.X509Entry
		}{{f.Certificate, &pair.Primary}, {f.SecondaryCertificate, &pair.Secondary}} {
			text, err := encodedCertificate(c.path)
			if err != nil {
				return rest.Attestation{}, err
			}
			if text != "" {
				*c.to = &rest.X509Entry{Certificate: text}
			}
		}
		x := &rest.X509Attestation{ClientCertificates: pair}
		if group {
			x = &rest.X509Attestation{SigningCertificates: pair}
		}
		return rest.Attestation{Type: rest.AttestX509, X509: x}, nil
	}
	return rest.Attestation{Type: rest.AttestKey,
		SymmetricKey: &rest.SymmetricKey{PrimaryKey: rest.Secret(f.PrimaryKey), SecondaryKey: rest.Secret(f.SecondaryKey)}}, nil
}

type enrollmentAdd struct {
	remote
	enrollmentFlags
	ID             string `arg:"" help:"Registration id."`
	DeviceID       string `help:"Device id in the hub (the registration id by default)."`
	EndorsementKey string `help:"Endorsement key of a TPM: base64 of TPM2B_PUBLIC, or @file with it."`
}

// Run adds the enrollment and prints it.
func (a *enrollmentAdd) Run(ctx context.Context, env environment) error {
	return a.use(func(c *rest.Client, _ connstr.String) error {
		terms, err := a.terms(ctx, env, c, false)
		if err != nil {
			return err
		}
		if a.EndorsementKey != "" {
			if terms.Attestation.X509 != nil || a.PrimaryKey+a.SecondaryKey != "" {
				return usageError{errors.New("a TPM takes the place of keys and certificates")}
			}
			key, err := argument(env, a.EndorsementKey)
			if err != nil {
				return fmt.Errorf("endorsement key: %w", err)
			}
			terms.Attestation = rest.Attestation{Type: rest.AttestTPM, TPM: &rest.TPMAttestation{EndorsementKey: strings.TrimSpace(string(key))}}
		}
		doc, err := c.PutEnrollment(ctx, rest.Enrollment{RegistrationID: a.ID, DeviceID: a.DeviceID, EnrollmentTerms: terms}, rest.MustNotExist)
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, doc)
	})
}

type enrollmentList struct {
	remote
	Output string `enum:"table,json" default:"table" help:"Form: ${enum}."`
}

// Run lists individual enrollments.
func (l *enrollmentList) Run(ctx context.Context, env environment) error {
	return l.use(func(c *rest.Client, _ connstr.String) error {
		list, err := c.ListEnrollments(ctx)
		if err != nil {
			return asked(err)
		}
		if l.Output == "json" {
			return printJSON(env.out, list)
		}
		w := tabwriter.NewWriter(env.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "REGISTRATION\tATTESTATION\tSTATUS\tEDGE\tREGISTERED\tDEVICE")
		for _, e := range list {
			state, device := "no", e.DeviceID
			if e.RegistrationState != nil {
				state, device = e.RegistrationState.Status, e.RegistrationState.DeviceID
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%s\t%s\n", e.RegistrationID, e.Attestation.Type, e.ProvisioningStatus, isEdge(e.EnrollmentTerms), state, device)
		}
		return w.Flush()
	})
}

func isEdge(t rest.EnrollmentTerms) bool { return t.Capabilities != nil && t.Capabilities.IoTEdge }

type enrollmentShow struct {
	remote
	ID string `arg:"" help:"Registration id."`
}

// Run prints the enrollment, keys included.
func (s *enrollmentShow) Run(ctx context.Context, env environment) error {
	return s.use(func(c *rest.Client, _ connstr.String) error {
		doc, err := c.GetEnrollment(ctx, s.ID)
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, doc)
	})
}

type enrollmentDelete struct {
	remote
	ID string `arg:"" help:"Registration id."`
}

// Run deletes the enrollment.
func (d *enrollmentDelete) Run(ctx context.Context) error {
	return d.use(func(c *rest.Client, _ connstr.String) error { return asked(c.DeleteEnrollment(ctx, d.ID, "")) })
}

type groupAdd struct {
	remote
	enrollmentFlags
	ID string `arg:"" help:"Id of the group."`
}

// Run adds the group and prints it.
func (a *groupAdd) Run(ctx context.Context, env environment) error {
	return a.use(func(c *rest.Client, _ connstr.String) error {
		terms, err := a.terms(ctx, env, c, true)
		if err != nil {
			return err
		}
		doc, err := c.PutEnrollmentGroup(ctx, rest.EnrollmentGroup{EnrollmentGroupID: a.ID, EnrollmentTerms: terms}, rest.MustNotExist)
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, doc)
	})
}

type groupList struct {
	remote
	Output string `enum:"table,json" default:"table" help:"Form: ${enum}."`
}

// Run lists groups.
func (l *groupList) Run(ctx context.Context, env environment) error {
	return l.use(func(c *rest.Client, _ connstr.String) error {
		list, err := c.ListEnrollmentGroups(ctx)
		if err != nil {
			return asked(err)
		}
		if l.Output == "json" {
			return printJSON(env.out, list)
		}
		w := tabwriter.NewWriter(env.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "GROUP\tATTESTATION\tSTATUS\tEDGE")
		for _, g := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%v\n", g.EnrollmentGroupID, g.Attestation.Type, g.ProvisioningStatus, isEdge(g.EnrollmentTerms))
		}
		return w.Flush()
	})
}

type groupShow struct {
	remote
	ID            string `arg:"" help:"Id of the group."`
	Registrations bool   `help:"Print who has registered, in place of the group."`
}

// Run prints the group, keys included, or its registrations.
func (s *groupShow) Run(ctx context.Context, env environment) error {
	return s.use(func(c *rest.Client, _ connstr.String) error {
		var doc any
		var err error
		if s.Registrations {
			doc, err = c.ListRegistrations(ctx, s.ID)
		} else {
			doc, err = c.GetEnrollmentGroup(ctx, s.ID)
		}
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, doc)
	})
}

type groupDelete struct {
	remote
	ID string `arg:"" help:"Id of the group."`
}

// Run deletes the group.
func (d *groupDelete) Run(ctx context.Context) error {
	return d.use(func(c *rest.Client, _ connstr.String) error { return asked(c.DeleteEnrollmentGroup(ctx, d.ID, "")) })
}

type groupKey struct {
	remote
	ID           string `arg:"" help:"Id of the group."`
	Registration string `arg:"" help:"Registration id of the device."`
}

// Run prints the key of one device of a group.
func (k *groupKey) Run(ctx context.Context, env environment) error {
	return k.use(func(c *rest.Client, _ connstr.String) error {
		g, err := c.GetEnrollmentGroup(ctx, k.ID)
		if err != nil {
			return asked(err)
		}
		if g.Attestation.SymmetricKey == nil {
			return fmt.Errorf("group %s has no keys but %s", k.ID, g.Attestation.Type)
		}
		master, err := sas.ParseKey(g.Attestation.SymmetricKey.PrimaryKey.Reveal())
		if err != nil {
			return fmt.Errorf("key of group %s: %w", k.ID, err)
		}
		_, err = fmt.Fprintln(env.out, master.Derive(k.Registration).Base64())
		return err
	})
}
