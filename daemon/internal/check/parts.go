package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

// Parts of the configuration. In the original each is the file of a service; here
// they are tables of one file.
const (
	configID = "aziot-edged-config-well-formed"

	partKeys     = "keys"
	partCerts    = "certificates"
	partTPM      = "TPM"
	partIdentity = "identity"
	partEdged    = "daemon"
)

// partOf are the parts by the first word of a key; others are the daemon's.
var partOf = map[string]string{
	"aziot_keys": partKeys, "preloaded_keys": partKeys, "imported_master_encryption_key": partKeys,
	"cert_issuance": partCerts, "edge_ca": partCerts, "preloaded_certs": partCerts,
	"trust_bundle_cert": partCerts, "manifest_trust_bundle_cert": partCerts,
	"tpm":      partTPM,
	"hostname": partIdentity, "provisioning": partIdentity, "auto_reprovisioning_mode": partIdentity, "localid": partIdentity,
	"cloud_timeout_sec": partIdentity, "cloud_retries": partIdentity, "prefer_module_identity_cache": partIdentity,
	"parent_hostname": partIdentity, "local_gateway_hostname": partIdentity,
}

// load reads the configuration and sorts what is wrong in it.
func (s *state) load() {
	cfg, err := s.Config()
	if err == nil {
		s.cfg = &cfg
		return
	}
	s.wrong = map[string][]string{}
	for _, e := range split(err) {
		part := partEdged
		var at *config.Error
		if errors.As(e, &at) {
			part = partFor(at.Key)
		}
		s.wrong[part] = append(s.wrong[part], e.Error())
	}
}

// partFor returns the part that a key belongs to.
func partFor(key string) string {
	first, _, _ := strings.Cut(key, ".")
	return cmp.Or(partOf[first], partEdged)
}

// doubts are the warnings on keys of one part.
func (s *state) doubts(part string) (out []string) {
	if s.cfg == nil {
		return nil
	}
	for _, w := range s.cfg.Warnings {
		if partFor(w.Key) == part {
			out = append(out, w.Error())
		}
	}
	return out
}

// wellFormed tells what is wrong in one part.
func wellFormed(part string) func(context.Context, *state) Outcome {
	return func(_ context.Context, s *state) Outcome {
		if wrong := s.wrong[part]; len(wrong) > 0 {
			return Outcome{Fatal, wrong}
		}
		if doubts := s.doubts(part); len(doubts) > 0 {
			return Outcome{Warning, doubts}
		}
		return ok()
	}
}

// split takes a joined error apart.
func split(err error) []error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []error{err}
	}
	return joined.Unwrap()
}

// lines are the texts of a joined error.
func lines(err error) []string {
	var out []string
	for _, e := range split(err) {
		out = append(out, fmt.Sprint(e))
	}
	return out
}
