//go:build cgo

package cryptoki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"github.com/breakwater-iot/breakwater/daemon/internal/pkcs11"
)

// public returns the public key of a pair, PKIX DER: that of the public object, or,
// for RSA, that in the private one.
func (m *module) public(session p11.SessionHandle, u pkcs11.URI) ([]byte, error) {
	private, err := m.find(session, u, p11.CKO_PRIVATE_KEY)
	if err != nil {
		return nil, err
	}
	object := private
	if o, err := m.find(session, u, p11.CKO_PUBLIC_KEY); err == nil {
		object = o
	}
	kind, err := m.number(session, private, p11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	var key any
	switch kind {
	case p11.CKK_RSA:
		key, err = m.rsaKey(session, object)
	case p11.CKK_EC:
		key, err = m.ecKey(session, object)
	default:
		return nil, errors.New("key is neither RSA nor EC")
	}
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(key)
}

func (m *module) number(session p11.SessionHandle, o p11.ObjectHandle, id uint) (uint, error) {
	v, err := m.ctx.GetAttributeValue(session, o, []*p11.Attribute{p11.NewAttribute(id, uint(0))})
	if err != nil || len(v) != 1 {
		return 0, fmt.Errorf("read attribute: %w", err)
	}
	var n uint
	for i := len(v[0].Value) - 1; i >= 0; i-- { // of this machine, little-endian
		n = n<<8 | uint(v[0].Value[i])
	}
	return n, nil
}

func (m *module) values(session p11.SessionHandle, o p11.ObjectHandle, ids ...uint) ([][]byte, error) {
	var want []*p11.Attribute
	for _, id := range ids {
		want = append(want, p11.NewAttribute(id, nil))
	}
	got, err := m.ctx.GetAttributeValue(session, o, want)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	var out [][]byte
	for _, a := range got {
		out = append(out, a.Value)
	}
	return out, nil
}

func (m *module) rsaKey(session p11.SessionHandle, o p11.ObjectHandle) (*rsa.PublicKey, error) {
	v, err := m.values(session, o, p11.CKA_MODULUS, p11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, err
	}
	e := new(big.Int).SetBytes(v[1])
	if !e.IsInt64() || e.Int64() > 1<<31-1 {
		return nil, errors.New("public exponent is too large")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(v[0]), E: int(e.Int64())}, nil
}

// curves by the object identifiers in CKA_EC_PARAMS.
var curves = map[string]elliptic.Curve{
	"1.2.840.10045.3.1.7": elliptic.P256(), "1.3.132.0.34": elliptic.P384(), "1.3.132.0.35": elliptic.P521(),
}

func (m *module) ecKey(session p11.SessionHandle, o p11.ObjectHandle) (*ecdsa.PublicKey, error) {
	v, err := m.values(session, o, p11.CKA_EC_PARAMS, p11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	var name asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(v[0], &name); err != nil {
		return nil, errors.New("curve of the key is not understood")
	}
	curve, ok := curves[name.String()]
	if !ok {
		return nil, fmt.Errorf("curve %s is not used", name)
	}
	// An OCTET STRING by the standard; some libraries give its content.
	point := v[1]
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		point = inner
	}
	return ecdsa.ParseUncompressedPublicKey(curve, point)
}

// generate makes an RSA-2048 pair that cannot be read out, unless there is one.
func (m *module) generate(session p11.SessionHandle, u pkcs11.URI) ([]byte, error) {
	der, err := m.public(session, u)
	if !errors.Is(err, errNoKey) {
		return der, err
	}
	id := u.ID
	if len(id) == 0 {
		id = make([]byte, 16)
		if _, err := rand.Read(id); err != nil {
			return nil, err
		}
	}
	both := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_LABEL, u.Object), p11.NewAttribute(p11.CKA_ID, id),
	}
	public := append(both[:len(both):len(both)],
		p11.NewAttribute(p11.CKA_VERIFY, true), p11.NewAttribute(p11.CKA_MODULUS_BITS, 2048),
		p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
	private := append(both[:len(both):len(both)],
		p11.NewAttribute(p11.CKA_SIGN, true), p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, false))
	if _, _, err := m.ctx.GenerateKeyPair(session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)}, public, private); err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	return m.public(session, u)
}

// hashes says how PKCS#11 names a hash, and which prefix a digest has in PKCS#1 v1.5
// signatures (RFC 8017 9.2).
var hashes = map[crypto.Hash]struct {
	mechanism, mgf uint
	prefix         []byte
}{
	crypto.SHA256: {p11.CKM_SHA256, p11.CKG_MGF1_SHA256, []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}},
	crypto.SHA384: {p11.CKM_SHA384, p11.CKG_MGF1_SHA384, []byte{0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30}},
	crypto.SHA512: {p11.CKM_SHA512, p11.CKG_MGF1_SHA512, []byte{0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40}},
}

func (m *module) signDigest(session p11.SessionHandle, r pkcs11.Request) ([]byte, error) {
	hash, ok := hashes[crypto.Hash(r.Hash)]
	if !ok || len(r.Digest) != crypto.Hash(r.Hash).Size() {
		return nil, errors.New("hash is not used")
	}
	key, err := m.find(session, r.Key, p11.CKO_PRIVATE_KEY)
	if err != nil {
		return nil, err
	}
	switch r.Scheme {
	case pkcs11.SchemePKCS1:
		return m.sign(session, p11.NewMechanism(p11.CKM_RSA_PKCS, nil), key, append(hash.prefix[:len(hash.prefix):len(hash.prefix)], r.Digest...))
	case pkcs11.SchemePSS:
		how := p11.NewMechanism(p11.CKM_RSA_PKCS_PSS, p11.NewPSSParams(hash.mechanism, hash.mgf, uint(len(r.Digest))))
		return m.sign(session, how, key, r.Digest)
	case pkcs11.SchemeECDSA:
		raw, err := m.sign(session, p11.NewMechanism(p11.CKM_ECDSA, nil), key, r.Digest)
		if err != nil {
			return nil, err
		}
		half := len(raw) / 2
		return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
	}
	return nil, errors.New("unknown scheme")
}
