package est

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
)

var oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}

var errPKCS7 = errors.New("answer is no PKCS#7 message with certificates")

// parseCerts reads a "certs-only" message (RFC 7030 4.1.3, RFC 5652 5.1): base64 of
//
//	SEQUENCE { signedData, [0] SEQUENCE { version, digests, content,
//	           [0] certificates, [1] crls, signers } }
//
// Nothing in it is signed; what the certificates are worth shows when they are used.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	clean := bytes.Join(bytes.Fields(text), nil)
	der := make([]byte, base64.StdEncoding.DecodedLen(len(clean)))
	n, err := base64.StdEncoding.Decode(der, clean)
	if err != nil {
		return nil, fmt.Errorf("%w: not base64", errPKCS7)
	}
	var info struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	if rest, err := asn1.Unmarshal(der[:n], &info); err != nil || len(rest) > 0 || !info.Type.Equal(oidSignedData) {
		return nil, errPKCS7
	}
	// An explicit RawValue keeps its wrapping.
	var signed asn1.RawValue
	if _, err := asn1.Unmarshal(info.Content.Bytes, &signed); err != nil || signed.Tag != asn1.TagSequence {
		return nil, errPKCS7
	}
	for rest := signed.Bytes; len(rest) > 0; {
		var part asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &part); err != nil {
			return nil, errPKCS7
		}
		if part.Class != asn1.ClassContextSpecific || part.Tag != 0 {
			continue
		}
		certs, err := x509.ParseCertificates(part.Bytes)
		if err != nil || len(certs) == 0 {
			return nil, errPKCS7
		}
		return certs, nil
	}
	return nil, errPKCS7
}
