package client

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/workload"
)

// FromConnectionString makes a client of the device or module of a connection
// string. It sets Identity, HubName, Host and the credential; the rest of options
// is kept. With x509=true options must have the ClientCertificate.
func FromConnectionString(s connstr.String, options Options) (*Client, error) {
	if s.Identity().IsZero() {
		return nil, fmt.Errorf("%w: connection string of a policy", ErrOptions)
	}
	options.Identity = s.Identity()
	options.HubName = s.HostName
	options.Host = s.GatewayHostName
	options.Signer, options.Tokens = nil, nil
	switch {
	case s.X509:
	case s.SharedAccessSignature != "":
		options.Tokens, options.ClientCertificate = StaticToken(s.SharedAccessSignature), nil
	default:
		options.Signer, options.ClientCertificate = KeySigner(s.SharedAccessKey), nil
	}
	return New(options)
}

// FromEnvironment makes the client of the module that it runs in, from the
// variables that the runtime gives to every module. It signs through the workload
// API and trusts the device's trust bundle besides the system's roots; ctx bounds
// the call for it. Who the client is and where it connects come from the
// environment, the rest from options.
//
// For development, a connection string in EdgeHubConnectionString or
// IotHubConnectionString takes precedence; EdgeModuleCACertificateFile then may
// name a file with further roots. Errors about variables wrap ErrOptions.
func FromEnvironment(ctx context.Context, getenv func(string) string, options Options) (*Client, error) {
	for _, name := range [...]string{"EdgeHubConnectionString", "IotHubConnectionString"} {
		if text := getenv(name); text != "" {
			return fromConnectionStringVariable(name, text, getenv, options)
		}
	}
	v := variables{getenv: getenv}
	uri := v.need("IOTEDGE_WORKLOADURI")
	device := v.need("IOTEDGE_DEVICEID")
	module := v.need("IOTEDGE_MODULEID")
	generation := v.need("IOTEDGE_MODULEGENERATIONID")
	hub := v.need("IOTEDGE_IOTHUBHOSTNAME")
	if v.missing != "" {
		return nil, fmt.Errorf("%w: %s is not set", ErrOptions, v.missing)
	}
	if scheme := getenv("IOTEDGE_AUTHSCHEME"); scheme != "" && scheme != "sasToken" {
		return nil, fmt.Errorf("%w: IOTEDGE_AUTHSCHEME is not sasToken", ErrOptions)
	}
	daemon, err := workload.Open(uri, module, generation)
	if err != nil {
		return nil, fmt.Errorf("%w: IOTEDGE_WORKLOADURI: %w", ErrOptions, err)
	}
	c, err := fromWorkload(ctx, daemon, options, iothub.ModuleIdentity(device, module), hub, getenv("IOTEDGE_GATEWAYHOSTNAME"))
	if err != nil {
		_ = daemon.Close()
		return nil, err
	}
	c.closers = []io.Closer{daemon}
	return c, nil
}

func fromWorkload(ctx context.Context, daemon *workload.Client, options Options, id iothub.Identity, hub, gateway string) (*Client, error) {
	options.Identity, options.HubName, options.Host = id, hub, gateway
	options.Signer, options.Tokens, options.ClientCertificate = daemon, nil, nil
	if options.RootCAs == nil {
		roots, err := daemon.Roots(ctx)
		if err != nil {
			return nil, err
		}
		options.RootCAs = roots
	} else {
		bundle, err := daemon.TrustBundle(ctx)
		if err != nil {
			return nil, err
		}
		options.RootCAs = options.RootCAs.Clone()
		options.RootCAs.AppendCertsFromPEM(bundle)
	}
	return New(options)
}

func fromConnectionStringVariable(name, text string, getenv func(string) string, options Options) (*Client, error) {
	s, err := connstr.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrOptions, name, err)
	}
	if file := getenv("EdgeModuleCACertificateFile"); file != "" {
		roots, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("%w: EdgeModuleCACertificateFile: %w", ErrOptions, err)
		}
		pool := options.RootCAs
		if pool != nil {
			pool = pool.Clone()
		} else if pool, err = x509.SystemCertPool(); err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(roots) {
			return nil, fmt.Errorf("%w: EdgeModuleCACertificateFile holds no certificate", ErrOptions)
		}
		options.RootCAs = pool
	}
	return FromConnectionString(s, options)
}

// variables reads variables and remembers the first one that is missing.
type variables struct {
	getenv  func(string) string
	missing string
}

func (v *variables) need(name string) string {
	value := v.getenv(name)
	if value == "" && v.missing == "" {
		v.missing = name
	}
	return value
}
