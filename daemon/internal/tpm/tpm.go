// Package tpm uses a TPM 2.0 for the device's identity (spec security-daemon 10,
// iothub-service 16.4): its endorsement and storage root keys say which TPM it is;
// the provisioning service wraps the identity key for it; signatures are made inside.
// The key is in the TPM's persistent memory and nowhere else.
//
// It also uses private keys that an operator has put there, named by "tpm:" URIs, and
// makes keys and seals secrets of its own. Those are wrapped by the TPM and kept in
// files, since a TPM has place for a handful only: it loads them when they are needed.
//
// Handles, all of the owner's hierarchy but the first:
//
//	0x81010001                  endorsement key, RSA-2048 (TCG EK credential profile)
//	0x81000001                  storage root key, RSA-2048
//	0x81000000 + AuthKeyIndex   identity key
//
// The first two are made when they are missing and are shared with other software
// that follows the same convention.
package tpm

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	ekHandle  = tpm2.TPMHandle(0x81010001)
	srkHandle = tpm2.TPMHandle(0x81000001)
	ownBase   = tpm2.TPMHandle(0x81000000)
	// maxBuffer is the most that a TPM takes in one piece.
	maxBuffer = 1024
)

// Options configures New.
type Options struct {
	// TCTI says where the TPM is: "device", "device:/dev/tpmrm0",
	// "swtpm:path=/socket", "swtpm:host=127.0.0.1,port=2321".
	TCTI string
	// AuthKeyIndex is where the identity key lives: see CheckIndex.
	AuthKeyIndex uint32
	// Endorsement and Owner are the authorizations of the hierarchies; may be empty.
	Endorsement, Owner []byte
}

// TPM is the device's TPM. It is opened for each operation, so that others can use
// it in between. Methods may be called concurrently and run one after the other.
type TPM struct {
	opt  Options
	open func() (transport.TPMCloser, error)
	key  tpm2.TPMHandle
	mu   sync.Mutex
}

// New checks the options; it does not open the TPM.
func New(opt Options) (*TPM, error) {
	open, err := dialer(opt.TCTI)
	if err != nil {
		return nil, fmt.Errorf("tpm: tcti: %w", err)
	}
	if err := CheckIndex(int64(opt.AuthKeyIndex)); err != nil {
		return nil, fmt.Errorf("tpm: authentication key index: %w", err)
	}
	return &TPM{opt: opt, open: open, key: tpm2.TPMHandle(AuthKeyHandle(opt.AuthKeyIndex))}, nil
}

// with runs f with the open TPM.
func (t *TPM) with(f func(transport.TPM) error) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	conn, err := t.open()
	if err != nil {
		return fmt.Errorf("open TPM: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return f(conn)
}

// Answers fails if the TPM cannot be opened or asked. It changes nothing.
func (t *TPM) Answers() error {
	return t.with(func(c transport.TPM) error {
		_, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTManufacturer), PropertyCount: 1}.Execute(c)
		return err
	})
}

// PublicKeys returns the endorsement key and the storage root key, each as a
// TPM2B_PUBLIC, and makes them if they are missing.
func (t *TPM) PublicKeys() (endorsement, storageRoot []byte, err error) {
	err = t.with(func(c transport.TPM) error {
		ek, err := t.ensure(c, ekHandle, tpm2.TPMRHEndorsement, t.opt.Endorsement, tpm2.RSAEKTemplate)
		if err != nil {
			return fmt.Errorf("endorsement key: %w", err)
		}
		srk, err := t.ensure(c, srkHandle, tpm2.TPMRHOwner, t.opt.Owner, tpm2.RSASRKTemplate)
		if err != nil {
			return fmt.Errorf("storage root key: %w", err)
		}
		endorsement, storageRoot = tpm2.Marshal(ek), tpm2.Marshal(srk)
		return nil
	})
	return endorsement, storageRoot, err
}

// ensure returns the public part of a persistent primary key.
func (t *TPM) ensure(c transport.TPM, at, hierarchy tpm2.TPMHandle, auth []byte, template tpm2.TPMTPublic) (tpm2.TPM2BPublic, error) {
	pub, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(c)
	if err == nil {
		return pub.OutPublic, nil
	}
	if !missing(err) {
		return tpm2.TPM2BPublic{}, fmt.Errorf("read: %w", err)
	}
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(auth)},
		InPublic:      tpm2.New2B(template),
	}.Execute(c)
	if err != nil {
		return tpm2.TPM2BPublic{}, fmt.Errorf("create: %w", err)
	}
	err = t.persist(c, made.ObjectHandle, made.Name, at)
	return made.OutPublic, errors.Join(err, flush(c, made.ObjectHandle))
}

// missing tells whether a handle names nothing.
func missing(err error) bool { return errors.Is(err, tpm2.TPMRCHandle) }

func flush(c transport.TPM, h tpm2.TPMHandle) error {
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(c); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

func (t *TPM) owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(t.opt.Owner)}
}

func (t *TPM) persist(c transport.TPM, object tpm2.TPMHandle, name tpm2.TPM2BName, at tpm2.TPMHandle) error {
	_, err := tpm2.EvictControl{
		Auth: t.owner(), ObjectHandle: tpm2.NamedHandle{Handle: object, Name: name}, PersistentHandle: at,
	}.Execute(c)
	if err != nil {
		return fmt.Errorf("make persistent: %w", err)
	}
	return nil
}

// Import takes the key that the provisioning service has wrapped for this TPM, in
// place of the one before. On an error the one before is still there, unless the TPM
// failed in between.
func (t *TPM) Import(blob []byte) error {
	p, err := parsePackage(blob)
	if err != nil {
		return err
	}
	return t.with(func(c transport.TPM) error {
		ek, err := tpm2.ReadPublic{ObjectHandle: ekHandle}.Execute(c)
		if err != nil {
			return fmt.Errorf("endorsement key: %w", err)
		}
		srk, err := tpm2.ReadPublic{ObjectHandle: srkHandle}.Execute(c)
		if err != nil {
			return fmt.Errorf("storage root key: %w", err)
		}
		parent := tpm2.AuthHandle{Handle: srkHandle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)}
		inner, err := tpm2.ActivateCredential{
			ActivateHandle: parent,
			KeyHandle:      tpm2.AuthHandle{Handle: ekHandle, Name: ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, t.endorse)},
			CredentialBlob: p.credential, Secret: p.secret,
		}.Execute(c)
		if err != nil {
			return fmt.Errorf("activate credential: %w", err)
		}
		private, err := tpm2.Import{
			ParentHandle: parent, EncryptionKey: tpm2.TPM2BData{Buffer: inner.CertInfo.Buffer},
			ObjectPublic: p.public, Duplicate: p.duplicate, InSymSeed: p.seed, Symmetric: innerCipher(),
		}.Execute(c)
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		loaded, err := tpm2.Load{ParentHandle: parent, InPrivate: private.OutPrivate, InPublic: p.public}.Execute(c)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		return errors.Join(t.replace(c, loaded), flush(c, loaded.ObjectHandle))
	})
}

// replace puts a loaded key where the identity key lives.
func (t *TPM) replace(c transport.TPM, key *tpm2.LoadResponse) error {
	old, err := tpm2.ReadPublic{ObjectHandle: t.key}.Execute(c)
	switch {
	case err == nil:
		// Making a persistent object "persistent" again removes it.
		if err := t.persist(c, t.key, old.Name, t.key); err != nil {
			return fmt.Errorf("remove old key: %w", err)
		}
	case !missing(err):
		return fmt.Errorf("old key: %w", err)
	}
	return t.persist(c, key.ObjectHandle, key.Name, t.key)
}

// endorse satisfies the policy of the endorsement key: PolicySecret of its
// hierarchy.
func (t *TPM) endorse(c transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(t.opt.Endorsement)},
		PolicySession: session, NonceTPM: nonce,
	}.Execute(c)
	return err
}

// ErrNoKey says that the TPM has no identity key yet: the device is not provisioned.
var ErrNoKey = errors.New("tpm: no identity key has been imported")

// Sign returns the HMAC-SHA256 of data with the identity key.
func (t *TPM) Sign(data []byte) ([]byte, error) {
	out, err := t.hmacAt(t.key, data)
	switch {
	case errors.Is(err, errFree):
		return nil, ErrNoKey
	case err != nil:
		return nil, fmt.Errorf("identity key: %w", err)
	}
	return out, nil
}

func hmac(c transport.TPM, key tpm2.AuthHandle, data []byte) ([]byte, error) {
	if len(data) <= maxBuffer {
		r, err := tpm2.Hmac{Handle: key, Buffer: tpm2.TPM2BMaxBuffer{Buffer: data}, HashAlg: tpm2.TPMAlgSHA256}.Execute(c)
		if err != nil {
			return nil, err
		}
		return r.OutHMAC.Buffer, nil
	}
	begun, err := tpm2.HmacStart{Handle: key, HashAlg: tpm2.TPMAlgSHA256}.Execute(c)
	if err != nil {
		return nil, err
	}
	sequence := tpm2.AuthHandle{Handle: begun.SequenceHandle, Auth: tpm2.PasswordAuth(nil)}
	for ; len(data) > maxBuffer; data = data[maxBuffer:] {
		if _, err := (tpm2.SequenceUpdate{SequenceHandle: sequence, Buffer: tpm2.TPM2BMaxBuffer{Buffer: data[:maxBuffer]}}).Execute(c); err != nil {
			return nil, errors.Join(err, flush(c, begun.SequenceHandle))
		}
	}
	r, err := tpm2.SequenceComplete{SequenceHandle: sequence, Buffer: tpm2.TPM2BMaxBuffer{Buffer: data}, Hierarchy: tpm2.TPMRHNull}.Execute(c)
	if err != nil {
		return nil, errors.Join(err, flush(c, begun.SequenceHandle))
	}
	return r.Result.Buffer, nil
}
