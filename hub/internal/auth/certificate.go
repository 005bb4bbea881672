package auth

import (
	"errors"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
)

// checkCertificate applies spec edgehub-core 5.3, with one difference: without a
// trust bundle nobody is let in by who signed.
func (a *Authenticator) checkCertificate(l head.Login) error {
	if l.Identity.IsModule() {
		return errors.New("modules do not authenticate by certificate")
	}
	e, err := a.entry(l.Identity)
	if err != nil {
		return err
	}
	now := a.o.Now()
	switch e.Auth {
	case scope.SelfSigned:
		if err := devicecert.CheckTime(l.Peer[0], now); err != nil {
			return err
		}
		if !devicecert.HasThumbprint(l.Peer[0], e.Thumbprints...) {
			return errors.New("certificate has another thumbprint")
		}
		return nil
	case scope.CertificateAuthority:
		_, err := devicecert.CheckSigned(l.Peer, l.Identity.Device, a.o.TrustBundle(), now)
		return err
	default:
		return fmt.Errorf("identity does not authenticate by certificate but by %q", e.Auth)
	}
}
