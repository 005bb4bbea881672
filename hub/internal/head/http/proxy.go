package http

import (
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/listen"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// certHeader is where a proxy that ends the TLS of its clients puts the certificates
// that they have proved to hold: PEM, percent-encoded (spec edgehub-core 13.3).
const certHeader = "x-ms-edge-clientcert"

// maxChain bounds the certificates in the header.
const maxChain = 8

// behindProxy returns the request as its client would have sent it without the
// proxy. The header counts only together with the token of the proxy itself, a
// module of this device; without it anybody could claim any certificate.
func (s *Server) behindProxy(r *http.Request) *http.Request {
	text := r.Header.Get(certHeader)
	if text == "" {
		return r
	}
	chain, err := s.passedOn(r, text)
	if err != nil {
		s.o.Logger.Info("client certificate from a proxy ignored", "remote", r.RemoteAddr, "error", err)
		return r
	}
	state := *r.TLS
	state.PeerCertificates = chain
	out := r.WithContext(r.Context())
	out.TLS = &state
	return out
}

func (s *Server) passedOn(r *http.Request, text string) ([]*x509.Certificate, error) {
	if s.o.ProxyModule == "" || r.TLS == nil {
		return nil, errors.New("no proxy is known")
	}
	l := head.Login{Identity: iothub.ModuleIdentity(s.o.Backend.Device(), s.o.ProxyModule), Protocol: "http",
		Token: r.Header.Get("Authorization"), Remote: address(r.RemoteAddr)}
	if l.Token == "" {
		return nil, errors.New("no token of the proxy")
	}
	if err := s.o.Backend.Authenticate(r.Context(), l); err != nil {
		return nil, err
	}
	listen.Known(r.Context())
	pem, err := url.PathUnescape(text) // where "+" is a plus, as in base64
	if err != nil {
		return nil, errors.New("header is not percent-encoded")
	}
	return devicecert.ParseChain([]byte(pem), maxChain)
}
