package dps_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// softTPM opens what is wrapped for its two keys as a TPM does (TPM 2.0 Library,
// Part 1, 23.3 and 24), with nothing of the code that wraps.
type softTPM struct {
	t       *testing.T
	ek, srk *rsa.PrivateKey
}

func newTPM(t *testing.T) *softTPM {
	t.Helper()
	s := &softTPM{t: t}
	var err error
	if s.ek, err = rsa.GenerateKey(rand.Reader, 2048); err == nil {
		s.srk, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func public(template tpm2.TPMTPublic, key *rsa.PrivateKey) tpm2.TPMTPublic {
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	return template
}

func (s *softTPM) endorsementKey() string {
	return base64.StdEncoding.EncodeToString(tpm2.Marshal(tpm2.New2B(public(tpm2.RSAEKTemplate, s.ek))))
}

func (s *softTPM) storageRootKey() string {
	return base64.StdEncoding.EncodeToString(tpm2.Marshal(tpm2.New2B(public(tpm2.RSASRKTemplate, s.srk))))
}

func (s *softTPM) body(id string) string {
	return `{"registrationId":"` + id + `","tpm":{"endorsementKey":"` + s.endorsementKey() + `","storageRootKey":"` + s.storageRootKey() + `"}}`
}

// cut takes a sized part off.
func (s *softTPM) cut(b *[]byte) []byte {
	s.t.Helper()
	if len(*b) < 2 || len(*b)-2 < int(binary.BigEndian.Uint16(*b)) {
		s.t.Fatal("blob is too short")
	}
	n := 2 + int(binary.BigEndian.Uint16(*b))
	part := (*b)[2:n]
	*b = (*b)[n:]
	return part
}

func digest(parts ...[]byte) []byte {
	sum := sha256.Sum256(bytes.Join(parts, nil))
	return sum[:]
}

// unprotect checks and decrypts what is protected by a seed for a named object.
func (s *softTPM) unprotect(key *rsa.PrivateKey, label string, secret, protected, name []byte) []byte {
	s.t.Helper()
	seed, err := rsa.DecryptOAEP(sha256.New(), nil, key, secret, []byte(label+"\x00"))
	if err != nil {
		s.t.Fatal(err)
	}
	hash, err := tpm2.TPMAlgSHA256.Hash()
	if err != nil {
		s.t.Fatal(err)
	}
	mac := s.cut(&protected)
	m := hmac.New(sha256.New, tpm2.KDFa(hash, seed, "INTEGRITY", nil, nil, 256))
	m.Write(protected)
	m.Write(name)
	if !hmac.Equal(mac, m.Sum(nil)) {
		s.t.Fatalf("%s: integrity", label)
	}
	return s.decrypt(tpm2.KDFa(hash, seed, "STORAGE", name, nil, 128), protected)
}

func (s *softTPM) decrypt(key, b []byte) []byte {
	s.t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		s.t.Fatal(err)
	}
	out := make([]byte, len(b))
	//nolint:staticcheck // the mode that TPMs use
	cipher.NewCFBDecrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(out, b)
	return out
}

// open returns the key in a package.
func (s *softTPM) open(blob string) sas.Key {
	s.t.Helper()
	rest, err := base64.StdEncoding.DecodeString(blob)
	if err != nil {
		s.t.Fatal(err)
	}
	credential, secret, private, seed, area := s.cut(&rest), s.cut(&rest), s.cut(&rest), s.cut(&rest), s.cut(&rest)
	if more := s.cut(&rest); len(more)+len(rest) != 0 {
		s.t.Fatal("more than a package")
	}
	root := public(tpm2.RSASRKTemplate, s.srk)
	rootName := append([]byte{0, 0x0b}, digest(tpm2.Marshal(root))...)
	inner := s.unprotect(s.ek, "IDENTITY", secret, credential, rootName)
	name := append([]byte{0, 0x0b}, digest(area)...)
	duplicate := s.decrypt(s.cut(&inner), s.unprotect(s.srk, "DUPLICATE", seed, private, name))
	integrity := s.cut(&duplicate)
	if !bytes.Equal(integrity, digest(duplicate, name)) {
		s.t.Fatal("integrity of the inner wrapper")
	}
	sensitive := s.cut(&duplicate)
	// TPMT_SENSITIVE: type, auth, seed, key.
	if kind := binary.BigEndian.Uint16(sensitive); kind != uint16(tpm2.TPMAlgKeyedHash) {
		s.t.Fatalf("sensitive area of type %x", kind)
	}
	sensitive = sensitive[2:]
	auth, obfuscation, key := s.cut(&sensitive), s.cut(&sensitive), s.cut(&sensitive)
	if len(auth) != 0 || len(obfuscation) != 32 || !bytes.HasSuffix(area, digest(obfuscation, key)) {
		s.t.Fatal("the areas are not of one key")
	}
	return sas.Key(key)
}

// challenged asks without credentials and returns the wrapped key.
func (d *device) challenged() (code int, blob string) {
	d.w.t.Helper()
	d.key = nil
	resp, body := d.put()
	var doc struct {
		ErrorCode                  int
		AuthenticationKey, KeyName string
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.ErrorCode/1000 != resp.StatusCode || (doc.AuthenticationKey != "") != (doc.KeyName == "registration") {
		d.w.t.Fatalf("%d %s", resp.StatusCode, body)
	}
	return doc.ErrorCode, doc.AuthenticationKey
}

func tpmTerms(key string) rest.EnrollmentTerms {
	return rest.EnrollmentTerms{Attestation: rest.Attestation{Type: "tpm", TPM: &rest.TPMAttestation{EndorsementKey: key}}}
}

func TestTPM(t *testing.T) {
	w, chip := start(t), newTPM(t)
	terms := tpmTerms(chip.endorsementKey())
	terms.Capabilities = &rest.Capabilities{IoTEdge: true}
	w.enroll(rest.Enrollment{RegistrationID: "r", DeviceID: "d", EnrollmentTerms: terms})
	d := &device{w: w, id: "r", scope: scope, body: chip.body("r")}
	code, blob := d.challenged()
	if code != 401002 {
		t.Fatal(code)
	}
	d.key = chip.open(blob)
	s := d.register()
	if s.Status != rest.RegistrationAssigned || s.DeviceID != "d" || s.TPM == nil {
		t.Fatalf("%+v", s)
	}
	identity := chip.open(s.TPM.AuthenticationKey)
	if got := w.device("d"); got.Authentication.SymmetricKey.PrimaryKey.Reveal() != identity.Base64() || identity.Base64() == d.key.Base64() {
		t.Error("another key than that of the hub")
	}
	token, err := sas.New(sas.DeviceResource(host, iothub.DeviceIdentity("d")), w.now().Add(time.Hour), "", identity.Sign)
	if err != nil {
		t.Fatal(err)
	}
	if resp, body := w.call(http.MethodGet, "/devices/d/modules?api-version=2021-04-12", token, ""); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	// Later, after a restart, the device keeps its key.
	w.reopen()
	_, again := d.challenged()
	if d.key = chip.open(again); again == blob {
		t.Error("wrapped the same way twice")
	}
	if s = d.register(); s.Substatus != rest.AssignedMigrated || chip.open(s.TPM.AuthenticationKey).Base64() != identity.Base64() {
		t.Errorf("%+v", s)
	}
	// A device of that name with other credentials gets keys.
	if _, err := w.owner().PutDevice(t.Context(), rest.Device{DeviceID: "d", Authentication: &rest.Authentication{Type: rest.AuthNone}}, rest.MustExist); err != nil {
		t.Fatal(err)
	}
	s = d.register()
	if got := w.device("d"); got.Authentication.SymmetricKey.PrimaryKey.Reveal() != chip.open(s.TPM.AuthenticationKey).Base64() {
		t.Error("another key than that of the hub")
	}
	if strings.Contains(w.log.String(), d.key.Base64()) || strings.Contains(w.log.String(), identity.Base64()) {
		t.Error("a key is in the log")
	}
}

func TestTPMRefusals(t *testing.T) {
	w, chip, other := start(t), newTPM(t), newTPM(t)
	w.enroll(rest.Enrollment{RegistrationID: "r", EnrollmentTerms: tpmTerms(chip.endorsementKey())})
	off := tpmTerms(chip.endorsementKey())
	off.ProvisioningStatus = rest.Disabled
	w.enroll(rest.Enrollment{RegistrationID: "off", EnrollmentTerms: off})
	w.enroll(rest.Enrollment{RegistrationID: "keys"})
	mixed := &softTPM{t: t, ek: chip.ek, srk: other.srk}
	for name, tt := range map[string]*device{
		"another TPM":        {id: "r", body: other.body("r")},
		"no such enrollment": {id: "q", body: chip.body("q")},
		"enrollment of keys": {id: "keys", body: chip.body("keys")},
		"another scope":      {id: "r", body: chip.body("r"), scope: "0neX"},
		"nothing of a key":   {id: "r", body: `{"tpm":{}}`},
		"no root key":        {id: "r", body: `{"tpm":{"endorsementKey":"` + chip.endorsementKey() + `"}}`},
		"keys swapped":       {id: "r", body: `{"tpm":{"endorsementKey":"` + chip.storageRootKey() + `","storageRootKey":"` + chip.endorsementKey() + `"}}`},
		"no TPM":             {id: "r"},
	} {
		if tt.w = w; tt.scope == "" {
			tt.scope = scope
		}
		if code, blob := tt.challenged(); code != 401002 || blob != "" {
			t.Errorf("%s: %d %s", name, code, blob)
		}
	}
	d := &device{w: w, id: "r", scope: scope, body: chip.body("r")}
	d.key = sas.Key("guessed")
	if code := d.refusal(); code != 401002 {
		t.Errorf("guessed key: %d", code)
	}
	_, blob := d.challenged()
	key := chip.open(blob)
	if d.key, d.body = key, mixed.body("r"); d.refusal() != 401002 {
		t.Error("root key of another TPM")
	}
	if d.body = `{"registrationId":"r"}`; d.refusal() != 401002 {
		t.Error("registered although its TPM is not known")
	}
	// A changed enrollment asks for a new proof.
	e, err := w.owner().GetEnrollment(t.Context(), "r")
	if err == nil {
		_, err = w.owner().PutEnrollment(t.Context(), e, e.Etag)
	}
	if err != nil {
		t.Fatal(err)
	}
	if d.body = chip.body("r"); d.refusal() != 401002 {
		t.Error("old proof")
	}
	d = &device{w: w, id: "off", scope: scope, body: chip.body("off")}
	_, blob = d.challenged()
	if d.key = chip.open(blob); d.refusal() != 403201 {
		t.Error("disabled enrollment")
	}
}

func TestKeysOfTPMs(t *testing.T) {
	w, chip := start(t), newTPM(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(p tpm2.TPMTPublic) string { return base64.StdEncoding.EncodeToString(tpm2.Marshal(tpm2.New2B(p))) }
	good := public(tpm2.RSAEKTemplate, chip.ek)
	sha1, signing, short, exponent := good, good, public(tpm2.RSAEKTemplate, weak), good
	sha1.NameAlg = tpm2.TPMAlgSHA1
	signing.ObjectAttributes.SignEncrypt = true
	exponent.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB)}, KeyBits: 2048, Exponent: 1})
	for name, key := range map[string]string{
		"": "", "no base64": "?", "no key": "AAAA", "cut": encode(good)[:200], "more behind it": base64.StdEncoding.EncodeToString(append(tpm2.Marshal(tpm2.New2B(good)), 0)),
		"SHA-1": encode(sha1), "signs": encode(signing), "1024 bits": encode(short), "no modulus": encode(tpm2.RSAEKTemplate), "exponent 1": encode(exponent),
	} {
		if _, err := w.owner().PutEnrollment(t.Context(), rest.Enrollment{RegistrationID: "r", EnrollmentTerms: tpmTerms(key)}, ""); rest.StatusOf(err) != 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.owner().PutEnrollmentGroup(t.Context(), rest.EnrollmentGroup{EnrollmentGroupID: "g", EnrollmentTerms: tpmTerms(encode(good))}, ""); rest.StatusOf(err) != 400 {
		t.Errorf("group: %v", err)
	}
	w.enroll(rest.Enrollment{RegistrationID: "r", EnrollmentTerms: tpmTerms(encode(good))})
}
