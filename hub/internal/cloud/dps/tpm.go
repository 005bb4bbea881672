package dps

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// maxTPMKey bounds the text of a public key of a TPM.
const maxTPMKey = 4 << 10

// storageKey is a public key of a TPM under which the TPM keeps other keys: its
// endorsement key or its storage root key.
type storageKey struct {
	raw    []byte // TPM2B_PUBLIC
	name   []byte // TPM2B_NAME without its size
	sealer tpm2.LabeledEncapsulationKey
}

// parseStorageKey reads base64 of TPM2B_PUBLIC.
func parseStorageKey(text string) (storageKey, error) {
	var k storageKey
	if len(text) > maxTPMKey {
		return k, errors.New("the key is too long")
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return k, errors.New("the key is not base64")
	}
	boxed, err := tpm2.Unmarshal[tpm2.TPM2BPublic](raw)
	if err != nil {
		return k, errors.New("the key is not a TPM2B_PUBLIC")
	}
	public, err := boxed.Contents()
	if err != nil || len(tpm2.Marshal(boxed)) != len(raw) {
		return k, errors.New("the key is not a TPM2B_PUBLIC")
	}
	if a := public.ObjectAttributes; !a.Restricted || !a.Decrypt || a.SignEncrypt || !a.FixedTPM {
		return k, errors.New("the key is not a storage key of a TPM")
	}
	if err := checkStrength(public); err != nil {
		return k, err
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return k, errors.New("the key has no name")
	}
	sealer, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return k, errors.New("the key is of an unknown kind")
	}
	return storageKey{raw: raw, name: name.Buffer, sealer: sealer}, nil
}

// checkStrength refuses keys whose secrets others could find out.
func checkStrength(public *tpm2.TPMTPublic) error {
	if public.NameAlg == tpm2.TPMAlgSHA1 || public.NameAlg == tpm2.TPMAlgNull {
		return errors.New("the key's name algorithm is too weak")
	}
	if _, err := public.NameAlg.Hash(); err != nil {
		return errors.New("the key's name algorithm is unknown")
	}
	if public.Type != tpm2.TPMAlgRSA {
		return nil // curves are checked when the key is imported
	}
	detail, err := public.Parameters.RSADetail()
	if err != nil {
		return errors.New("the key is not RSA, although it says so")
	}
	modulus, err := public.Unique.RSA()
	if err != nil || detail.KeyBits < 2048 || len(modulus.Buffer)*8 != int(detail.KeyBits) || modulus.Buffer[0]&0x80 == 0 {
		return errors.New("the key has fewer than 2048 bits")
	}
	if detail.Exponent != 0 && (detail.Exponent < 3 || detail.Exponent%2 == 0) {
		return errors.New("the key has an impossible exponent")
	}
	return nil
}

// completeTPM checks the endorsement key of an enrollment.
func completeTPM(e *enrollment) error {
	a := e.terms.Attestation.TPM
	switch {
	case e.group:
		return invalid("a group has no tpm attestation")
	case a == nil:
		return invalid("tpm is missing")
	}
	var err error
	if e.endorsement, err = parseStorageKey(a.EndorsementKey); err != nil {
		return invalid("endorsementKey: %v", err)
	}
	if a.StorageRootKey != "" {
		if _, err := parseStorageKey(a.StorageRootKey); err != nil {
			return invalid("storageRootKey: %v", err)
		}
	}
	e.terms.Attestation = rest.Attestation{Type: rest.AttestTPM, TPM: a}
	return nil
}

// tpmKeys are the public keys that a device sends.
type tpmKeys struct {
	EndorsementKey string `json:"endorsementKey"`
	StorageRootKey string `json:"storageRootKey"`
}

// challenge answers a device that has told its TPM's keys and shown nothing else:
// with a key that only this TPM can unwrap, if the enrollment has its endorsement
// key.
func (d *Service) challenge(c claim) error {
	e, root, reason := d.endorsed(c)
	if reason != "" {
		d.log.Info("registration refused", "registration", c.id, "reason", reason)
		return errUnauthorized()
	}
	blob, err := wrapKey(e.endorsement, root, d.proofKey(e, root))
	if err != nil {
		return fmt.Errorf("wrap key: %w", err)
	}
	return &Error{Status: codeUnauthorized / 1000, Code: codeUnauthorized, Text: unauthorizedText, challenge: blob}
}

// endorsed returns the enrollment of a device with a TPM, and its storage root key.
func (d *Service) endorsed(c claim) (e *enrollment, root storageKey, reason string) {
	e, ok := d.find(individualKey(c.id))
	if !ok || e.terms.Attestation.Type != rest.AttestTPM {
		return nil, root, "no enrollment with a TPM"
	}
	keys := c.request.TPM
	if keys == nil { // a question after a registration
		r, err := d.load(c.id)
		if err != nil || r == nil || r.TPM == nil || r.Enrollment != e.key() {
			return nil, root, "the keys of the TPM are not known"
		}
		keys = r.TPM
	}
	endorsement, err := parseStorageKey(keys.EndorsementKey)
	if err != nil {
		return nil, root, "endorsement key: " + err.Error()
	}
	if subtle.ConstantTimeCompare(endorsement.raw, e.endorsement.raw) != 1 {
		return nil, root, "the endorsement key is not that of the enrollment"
	}
	if root, err = parseStorageKey(keys.StorageRootKey); err != nil {
		return nil, root, "storage root key: " + err.Error()
	}
	return e, root, ""
}

// proofKey is the key that a device gets wrapped and signs with, to prove its TPM.
// It is the same each time and kept nowhere: so those who ask for it without having
// the TPM are no burden and disturb nobody. It changes with the enrollment.
func (d *Service) proofKey(e *enrollment, root storageKey) sas.Key {
	m := hmac.New(sha256.New, d.secret)
	for _, part := range [][]byte{[]byte(e.key()), []byte(e.terms.Etag), e.endorsement.raw, root.raw} {
		sum := sha256.Sum256(part)
		m.Write(sum[:])
	}
	return m.Sum(nil)
}

// byTPM decides about a device that has signed with the key it was given.
func (d *Service) byTPM(c claim, t sas.Token) (a *admission, reason string) {
	e, root, reason := d.endorsed(c)
	if reason != "" {
		return nil, reason
	}
	if !t.Verify(d.proofKey(e, root)) {
		return nil, "the signature is not by the key that the TPM was given"
	}
	return &admission{enrollment: e, root: root, tpm: &tpmKeys{
		EndorsementKey: base64.StdEncoding.EncodeToString(e.endorsement.raw),
		StorageRootKey: base64.StdEncoding.EncodeToString(root.raw),
	}}, ""
}

// wrapIdentity wraps the key of a device in the hub for its TPM, in base64.
func wrapIdentity(a *admission, device rest.Device) (string, error) {
	key, err := sas.ParseKey(device.Authentication.SymmetricKey.PrimaryKey.Reveal())
	if err != nil {
		return "", fmt.Errorf("key of the device: %w", err)
	}
	blob, err := wrapKey(a.enrollment.endorsement, a.root, key)
	if err != nil {
		return "", fmt.Errorf("wrap key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(blob), nil
}

// innerBytes is the size of the key of the inner wrapper, AES-128.
const innerBytes = 16

// wrapKey makes the package by which a TPM, and no other, takes a key for
// HMAC-SHA256 (TPM 2.0 Library, Part 1, 23.3 and 24):
//
//	TPM2B_ID_OBJECT         credential: the key of the inner wrapper, for ActivateCredential
//	TPM2B_ENCRYPTED_SECRET  of the credential
//	TPM2B_PRIVATE           duplicate of the HMAC key in inner and outer wrapper, for Import
//	TPM2B_ENCRYPTED_SECRET  seed of the outer wrapper
//	TPM2B_PUBLIC            of the HMAC key
//	UINT16                  size of more data: none
func wrapKey(endorsement, root storageKey, key []byte) ([]byte, error) {
	public, sensitive := hmacKey(key)
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	inner := make([]byte, innerBytes)
	_, _ = rand.Read(inner) // never fails, see crypto/rand
	credential, secret, err := tpm2.CreateCredential(rand.Reader, endorsement.sealer, root.name, inner)
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	private, err := wrapInner(inner, name.Buffer, tpm2.Marshal(tpm2.New2B(sensitive)))
	if err != nil {
		return nil, fmt.Errorf("inner wrapper: %w", err)
	}
	private, seed, err := wrapOuter(root, name.Buffer, private)
	if err != nil {
		return nil, fmt.Errorf("outer wrapper: %w", err)
	}
	var out []byte
	for _, part := range [][]byte{
		tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: credential}), tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: secret}),
		tpm2.Marshal(tpm2.TPM2BPrivate{Buffer: private}), tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: seed}),
		tpm2.Marshal(tpm2.New2B(public)), {0, 0},
	} {
		out = append(out, part...)
	}
	return out, nil
}

// hmacKey returns the two areas of a key object for HMAC-SHA256.
func hmacKey(key []byte) (tpm2.TPMTPublic, tpm2.TPMTSensitive) {
	seed := make([]byte, sha256.Size)
	_, _ = rand.Read(seed) // never fails, see crypto/rand
	unique := sha256.Sum256(append(append([]byte{}, seed...), key...))
	public := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{
			Scheme:  tpm2.TPMAlgHMAC,
			Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA256}),
		}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: unique[:]}),
	}
	return public, tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgKeyedHash, SeedValue: tpm2.TPM2BDigest{Buffer: seed},
		Sensitive: tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BSensitiveData{Buffer: key}),
	}
}

// wrapInner puts a digest before a sensitive area and encrypts both.
func wrapInner(key, name, sensitive []byte) ([]byte, error) {
	sum := sha256.Sum256(append(append([]byte{}, sensitive...), name...))
	return encrypt(key, append(tpm2.Marshal(tpm2.TPM2BDigest{Buffer: sum[:]}), sensitive...))
}

// wrapOuter encrypts and signs what is in the inner wrapper with keys that come from
// a seed for the parent.
func wrapOuter(parent storageKey, name, inner []byte) (private, secret []byte, err error) {
	hash, err := parent.sealer.NameAlg().Hash()
	if err != nil {
		return nil, nil, err
	}
	bits, err := parent.sealer.SymmetricParameters().KeyBits.AES()
	if err != nil {
		return nil, nil, err
	}
	seed, secret, err := parent.sealer.Encapsulate(rand.Reader, "DUPLICATE")
	if err != nil {
		return nil, nil, err
	}
	encrypted, err := encrypt(tpm2.KDFa(hash, seed, "STORAGE", name, nil, int(*bits)), inner)
	if err != nil {
		return nil, nil, err
	}
	m := hmac.New(hash.New, tpm2.KDFa(hash, seed, "INTEGRITY", nil, nil, hash.Size()*8))
	m.Write(encrypted)
	m.Write(name)
	return append(tpm2.Marshal(tpm2.TPM2BDigest{Buffer: m.Sum(nil)}), encrypted...), secret, nil
}

// encrypt is AES in CFB mode with an initial vector of zeros, as TPMs use it for
// keys that encrypt once.
func encrypt(key, plain []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(plain))
	//nolint:staticcheck // the mode is what the TPM wants; integrity has a MAC of its own
	cipher.NewCFBEncrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(out, plain)
	return out, nil
}
