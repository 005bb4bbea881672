//go:build cgo

// Package cryptoki is the part of edged-pkcs11 that calls a PKCS#11 library: it
// answers the requests of package pkcs11, one after the other. The library's code runs
// in this process.
package cryptoki

import (
	"errors"
	"fmt"
	"io"

	p11 "github.com/miekg/pkcs11"

	"github.com/breakwater-iot/breakwater/daemon/internal/pkcs11"
)

// module is a loaded library with a session for each token in use.
type module struct {
	ctx      *p11.Ctx
	sessions map[uint]p11.SessionHandle
}

// Serve loads the library and answers requests from in to out, until in ends.
func Serve(library string, in io.Reader, out io.Writer) error {
	ctx := p11.New(library)
	if ctx == nil {
		return fmt.Errorf("library %s cannot be loaded", library)
	}
	defer ctx.Destroy()
	if err := ctx.Initialize(); err != nil {
		return fmt.Errorf("initialize %s: %w", library, err)
	}
	defer func() { _ = ctx.Finalize() }()
	m := &module{ctx: ctx, sessions: map[uint]p11.SessionHandle{}}
	for {
		var r pkcs11.Request
		err := pkcs11.ReadFrame(in, &r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer := pkcs11.Response{N: r.N}
		if answer.Result, err = m.answer(r); err != nil {
			answer = pkcs11.Response{N: r.N, Error: err.Error()}
		}
		if err := pkcs11.WriteFrame(out, answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// answer carries out a request; once more with a new session if the token was taken
// out in between.
func (m *module) answer(r pkcs11.Request) ([]byte, error) {
	slot, err := m.slot(r.Key)
	if err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		session, err := m.session(slot, r.Key.PIN)
		if err != nil {
			return nil, err
		}
		out, err := m.carryOut(session, r)
		if err == nil || again || !stale(err) {
			return out, err
		}
		_ = m.ctx.CloseSession(session)
		delete(m.sessions, slot)
	}
}

func stale(err error) bool {
	var code p11.Error
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_DEVICE_REMOVED:
		return true
	}
	return false
}

func (m *module) carryOut(session p11.SessionHandle, r pkcs11.Request) ([]byte, error) {
	switch r.Op {
	case pkcs11.OpPublic:
		return m.public(session, r.Key)
	case pkcs11.OpGenerate:
		return m.generate(session, r.Key)
	case pkcs11.OpHMAC:
		key, err := m.find(session, r.Key, p11.CKO_SECRET_KEY)
		if err != nil {
			return nil, err
		}
		return m.sign(session, p11.NewMechanism(p11.CKM_SHA256_HMAC, nil), key, r.Data)
	case pkcs11.OpSign:
		return m.signDigest(session, r)
	}
	return nil, errors.New("unknown operation")
}

// slot finds the token of a URI: by slot, or by the token's label or serial number.
// Without any, the library must have one token only.
func (m *module) slot(u pkcs11.URI) (uint, error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("list slots: %w", err)
	}
	var found []uint
	for _, s := range slots {
		info, err := m.ctx.GetTokenInfo(s)
		if err != nil || info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		if (u.Slot == nil || *u.Slot == s) && (u.Token == "" || u.Token == info.Label) && (u.Serial == "" || u.Serial == info.SerialNumber) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return 0, errors.New("no such token")
	case 1:
		return found[0], nil
	}
	return 0, errors.New("several tokens fit: name one")
}

func (m *module) session(slot uint, pin string) (p11.SessionHandle, error) {
	if s, ok := m.sessions[slot]; ok {
		return s, nil
	}
	s, err := m.ctx.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return 0, fmt.Errorf("open session: %w", err)
	}
	if pin != "" {
		err := m.ctx.Login(s, p11.CKU_USER, pin)
		if err != nil && !errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
			_ = m.ctx.CloseSession(s)
			return 0, fmt.Errorf("log in: %w", err)
		}
	}
	m.sessions[slot] = s
	return s, nil
}

var errNoKey = errors.New("no such key")

// find returns the object of a class that a URI names.
func (m *module) find(session p11.SessionHandle, u pkcs11.URI, class uint) (p11.ObjectHandle, error) {
	if u.Object == "" && len(u.ID) == 0 {
		return 0, errors.New("the URI names no object")
	}
	want := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class)}
	if u.Object != "" {
		want = append(want, p11.NewAttribute(p11.CKA_LABEL, u.Object))
	}
	if len(u.ID) > 0 {
		want = append(want, p11.NewAttribute(p11.CKA_ID, u.ID))
	}
	if err := m.ctx.FindObjectsInit(session, want); err != nil {
		return 0, fmt.Errorf("find: %w", err)
	}
	found, _, err := m.ctx.FindObjects(session, 2)
	if ferr := m.ctx.FindObjectsFinal(session); err == nil {
		err = ferr
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("find: %w", err)
	case len(found) == 0:
		return 0, errNoKey
	case len(found) > 1:
		return 0, errors.New("several keys fit: name one by its id")
	}
	return found[0], nil
}

func (m *module) sign(session p11.SessionHandle, how *p11.Mechanism, key p11.ObjectHandle, data []byte) ([]byte, error) {
	if err := m.ctx.SignInit(session, []*p11.Mechanism{how}, key); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	out, err := m.ctx.Sign(session, data)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return out, nil
}
