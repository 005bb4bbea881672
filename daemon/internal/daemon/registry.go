package daemon

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// tokenLife is how long a token for one request lives.
const tokenLife = 30 * time.Second

// registryOptions configures newRegistry.
type registryOptions struct {
	// Hub is the name of the hub, Host where to dial.
	Hub, Host, Device string
	Credential        credential.Credential
	Roots             *x509.CertPool
	Timeout           time.Duration
	Retries           int
	UserAgent         string
}

// newRegistry makes a registry client with the device's credentials. It does not
// connect.
func newRegistry(o registryOptions) (*rest.Client, error) {
	opt := rest.Options{
		HubName:     o.Hub,
		Host:        o.Host,
		Certificate: o.Credential.Certificate,
		RootCAs:     o.Roots,
		Timeout:     o.Timeout,
		Attempts:    o.Retries + 1,
		Backoff:     3 * time.Second,
		MaxBackoff:  10 * time.Second,
		UserAgent:   o.UserAgent,
	}
	if sign := o.Credential.Sign; sign != nil {
		resource := sas.DeviceResource(strings.ToLower(o.Hub), iothub.DeviceIdentity(o.Device))
		opt.Authorize = func(context.Context) (string, error) {
			return sas.New(resource, time.Now().Add(tokenLife), "", sign)
		}
	}
	client, err := rest.New(opt)
	if err != nil {
		return nil, fmt.Errorf("registry client: %w", err)
	}
	return client, nil
}
