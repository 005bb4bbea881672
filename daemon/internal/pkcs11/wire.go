package pkcs11

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Operations of the helper.
const (
	OpPublic   = "public"   // answers the public key of Key, PKIX DER
	OpSign     = "sign"     // answers the signature of Digest by Key
	OpHMAC     = "hmac"     // answers the HMAC-SHA256 of Data by Key
	OpGenerate = "generate" // makes an RSA-2048 pair named Key, if there is none; answers as OpPublic
)

// Schemes of OpSign.
const (
	SchemePKCS1 = "rsa-pkcs1"
	SchemePSS   = "rsa-pss" // salt as long as the digest
	SchemeECDSA = "ecdsa"   // ASN.1
)

// Request is what the daemon sends to the helper.
type Request struct {
	// N is repeated in the answer.
	N      uint64 `json:"n"`
	Op     string `json:"op"`
	Key    URI    `json:"key"`
	Scheme string `json:"scheme,omitempty"`
	// Hash is the crypto.Hash of Digest.
	Hash   uint   `json:"hash,omitempty"`
	Digest []byte `json:"digest,omitempty"`
	Data   []byte `json:"data,omitempty"`
}

// Response is the helper's answer; one for each request, in order.
type Response struct {
	N      uint64 `json:"n"`
	Result []byte `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
}

// maxFrame bounds a message between daemon and helper.
const maxFrame = 1 << 20

var errFrame = errors.New("pkcs11 helper: malformed message")

// WriteFrame writes v as JSON behind its length, 4 bytes big-endian.
func WriteFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxFrame {
		return errFrame
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// ReadFrame reads what WriteFrame wrote. The error is io.EOF at the end of the stream
// between two messages. Errors hold nothing of the content.
func ReadFrame(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return errFrame
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("%w: %w", errFrame, io.ErrUnexpectedEOF)
	}
	if json.Unmarshal(body, v) != nil {
		return errFrame
	}
	return nil
}
