package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/blob"
	"github.com/breakwater-iot/breakwater/agent/internal/edged"
	"github.com/breakwater-iot/breakwater/agent/internal/method"
	"github.com/breakwater-iot/breakwater/proto/proxy"
)

// uploads makes a connection for each upload: they are rare, and roots and buffers
// need not be kept for them.
type uploads struct {
	daemon  *edged.Client
	network *proxy.Dialer
}

var _ method.Uploader = uploads{}

// Upload trusts the well-known roots and those of the daemon: the target may be the
// parent device.
func (u uploads) Upload(ctx context.Context, t blob.Target, c blob.Content, write func(io.Writer) error) error {
	bundle, err := u.daemon.TrustBundle(ctx)
	if err != nil {
		return err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	roots.AppendCertsFromPEM(bundle)
	uploader := blob.New(&http.Transport{
		DialContext:           u.network.DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   30 * time.Second,
		ResponseHeaderTimeout: 5 * time.Minute,
		ForceAttemptHTTP2:     true,
	})
	defer uploader.Close()
	return uploader.Upload(ctx, t, c, write)
}
