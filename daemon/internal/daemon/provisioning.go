package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/dps"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/provision"
	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
)

// maxPayload bounds the JSON that is sent along with a registration.
const maxPayload = 64 << 10

// identify finds out which device this is: the config says it, or DPS does.
func (d *daemon) identify(ctx context.Context) error {
	cfg := &d.Config
	if cfg.Provisioning.Source != "dps" {
		d.ensureCertificate(ctx, d.identityCert, "identity certificate")
		return nil
	}
	if cfg.Identity.RegistrationID == "" {
		name, err := d.certificateName(ctx)
		if err != nil {
			return fmt.Errorf("identity certificate: %w", err)
		}
		cfg.Identity.RegistrationID = name
	}
	o, closeClient, err := d.registration()
	if err != nil {
		return err
	}
	defer closeClient()
	o.Always = cfg.Reprovisioning == config.AlwaysOnStartup
	s, err := provision.Start(ctx, o)
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	cfg.Device = cfg.Assigned(s.Hub, s.DeviceID)
	return nil
}

// ensureCertificate gets the very first certificate of a holder, or one in place of an
// expired one. Without it the device starts all the same, and the renewal goes on
// trying.
func (d *daemon) ensureCertificate(ctx context.Context, h *pki.Holder, what string) {
	if h == nil {
		return
	}
	if _, err := h.Obtain(ctx); err != nil {
		d.Log.ErrorContext(ctx, "there is no valid "+what, "error", err)
	}
}

// registration describes the device's registration at DPS.
func (d *daemon) registration() (o provision.Options, closeClient func(), err error) {
	p, id := d.Config.Provisioning, d.Config.Identity
	c := dps.Options{
		Endpoint: p.GlobalEndpoint, IDScope: p.IDScope, RegistrationID: id.RegistrationID,
		RootCAs: d.roots, Timeout: time.Duration(d.Config.CloudTimeoutSec) * time.Second, UserAgent: "edged/" + d.Version,
		Certificate: d.credential.Certificate,
	}
	if id.Method == config.TPMKey {
		c.TPM = d.TPM
	} else {
		c.Sign = d.credential.Sign
	}
	if p.Payload.URI != "" {
		c.Payload = d.payload
	}
	client, err := dps.New(c)
	if err != nil {
		return provision.Options{}, nil, err
	}
	return provision.Options{
		File: provision.File(d.home), Registration: strings.Join([]string{p.GlobalEndpoint, p.IDScope, id.RegistrationID}, "/"),
		Registrar: registrar{client, d.identityCert}, Log: part(d.Log, "provision"),
	}, client.Close, nil
}

// registrar makes sure that there is a certificate to register with.
type registrar struct {
	client *dps.Client
	cert   *pki.Holder // nil if none is issued
}

// Register registers the device.
func (r registrar) Register(ctx context.Context) (dps.Assignment, error) {
	if r.cert != nil {
		if _, err := r.cert.Obtain(ctx); err != nil {
			return dps.Assignment{}, fmt.Errorf("%w: %w", dps.ErrUnavailable, err)
		}
	}
	return r.client.Register(ctx)
}

// payload reads the JSON of the config's payload.uri: a file or a URL.
func (d *daemon) payload(ctx context.Context) (json.RawMessage, error) {
	uri := d.Config.Provisioning.Payload.URI
	var text []byte
	var err error
	if strings.HasPrefix(uri, "/") {
		text, err = os.ReadFile(uri)
	} else {
		text, err = fetch(ctx, uri, d.roots)
	}
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxPayload:
		return nil, fmt.Errorf("%s is longer than %d bytes", uri, maxPayload)
	case !json.Valid(text):
		return nil, fmt.Errorf("%s is not JSON", uri)
	}
	return text, nil
}

func fetch(ctx context.Context, uri string, roots *x509.CertPool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d", uri, resp.StatusCode)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxPayload+1))
}

// Between two registrations because of refusals: the hub may refuse for another
// reason, such as a disabled device.
const (
	firstDoubt   = 5 * time.Minute
	longestDoubt = time.Hour
)

// doubt notes that what is known of the device may be wrong. It does not block.
func (d *daemon) doubt() {
	select {
	case d.doubts <- struct{}{}:
	default: // one is noted already
	}
}

// watchDoubts registers the device again when the hub refuses it, or when it has a
// new certificate, and ends the daemon when that gives another device or hub: the
// next start removes the modules and begins anew.
func (d *daemon) watchDoubts(ctx context.Context) error {
	log := part(d.Log, "provision")
	for pause := firstDoubt; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-d.doubts:
		}
		if d.moved(ctx) {
			d.reprovision()
			return nil
		}
		log.InfoContext(ctx, "assignment is unchanged", "quiet", pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		pause = min(2*pause, longestDoubt)
	}
}

// moved registers the device again and tells whether it belongs to another hub now.
func (d *daemon) moved(ctx context.Context) bool {
	log := part(d.Log, "provision")
	o, closeClient, err := d.registration()
	if err == nil {
		defer closeClient()
		var s provision.State
		if s, err = provision.Again(ctx, o); err == nil {
			if s.Hub != d.Config.Device.HubName || s.DeviceID != d.Config.Device.DeviceID {
				log.WarnContext(ctx, "device is assigned anew", "hub", s.Hub, "device", s.DeviceID)
				return true
			}
			return false
		}
	}
	if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		log.ErrorContext(ctx, "register again", "error", err)
	}
	return false
}

// renewals are the loops that keep certificates fresh.
func (d *daemon) renewals() []func(context.Context) error {
	var out []func(context.Context) error
	log := part(d.Log, "pki")
	add := func(name string, c renewal.Certificate, renewed func(context.Context)) {
		out = append(out, func(ctx context.Context) error {
			return renewal.Run(ctx, c, log.With("certificate", name), renewed)
		})
	}
	if d.localCA != nil {
		// What it has issued stays good, and is renewed in its own time.
		add("local CA", d.localCA, func(ctx context.Context) {
			log.InfoContext(ctx, "local CA renewed", "until", d.localCA.Chain()[0].NotAfter)
		})
	}
	if d.authority.Renewable() {
		out = append(out, d.renewCA)
	}
	if d.identityCert != nil {
		add(identityName, d.identityCert, func(ctx context.Context) {
			log.InfoContext(ctx, "identity certificate renewed", "until", d.identityCert.Chain()[0].NotAfter)
			if d.Config.Provisioning.Source == "dps" {
				d.doubt() // the hub knows the certificate by its thumbprint
			}
		})
	}
	for _, h := range d.estIdentities {
		add("EST identity", h, func(ctx context.Context) {
			log.InfoContext(ctx, "EST identity renewed", "until", h.Chain()[0].NotAfter)
		})
	}
	return out
}
