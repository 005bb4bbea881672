package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

var errPackage = errors.New("tpm: authentication key is not a credential package")

// credentialPackage is a key wrapped for one TPM: the credential holds the key of
// the inner wrapper, which only the TPM with the endorsement key can open; the
// duplicate holds the key itself, for import below the storage root key.
type credentialPackage struct {
	credential tpm2.TPM2BIDObject
	secret     tpm2.TPM2BEncryptedSecret
	duplicate  tpm2.TPM2BPrivate
	seed       tpm2.TPM2BEncryptedSecret
	public     tpm2.TPM2BPublic
}

// parsePackage reads
//
//	TPM2B_ID_OBJECT          credential
//	TPM2B_ENCRYPTED_SECRET   its secret
//	TPM2B_PRIVATE            duplicate of the key
//	TPM2B_ENCRYPTED_SECRET   its seed
//	TPM2B_PUBLIC             public area of the key
//	UINT16 and as many bytes further data, which is not used; may be missing
func parsePackage(blob []byte) (credentialPackage, error) {
	var parts [6][]byte
	rest := blob
	for i := range parts {
		if i == 5 && len(rest) == 0 {
			break
		}
		if len(rest) < 2 {
			return credentialPackage{}, errPackage
		}
		n := int(binary.BigEndian.Uint16(rest))
		if n > len(rest)-2 || (n == 0 && i < 5 && i != 3) {
			return credentialPackage{}, errPackage
		}
		parts[i], rest = rest[2:2+n], rest[2+n:]
	}
	if len(rest) > 0 {
		return credentialPackage{}, errPackage
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](parts[4])
	if err != nil {
		return credentialPackage{}, fmt.Errorf("%w: public area: %w", errPackage, err)
	}
	if public.Type != tpm2.TPMAlgKeyedHash || !public.ObjectAttributes.SignEncrypt {
		return credentialPackage{}, fmt.Errorf("%w: it is no key for signatures", errPackage)
	}
	return credentialPackage{
		credential: tpm2.TPM2BIDObject{Buffer: parts[0]}, secret: tpm2.TPM2BEncryptedSecret{Buffer: parts[1]},
		duplicate: tpm2.TPM2BPrivate{Buffer: parts[2]}, seed: tpm2.TPM2BEncryptedSecret{Buffer: parts[3]},
		public: tpm2.New2B(*public),
	}, nil
}

// innerCipher is how the duplicate is wrapped with the credential's content.
func innerCipher() tpm2.TPMTSymDef {
	return tpm2.TPMTSymDef{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}
