package tpm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Scheme begins the URI of a key in the TPM.
const Scheme = "tpm:"

// Ends of the handles that outlive a restart of the TPM.
const firstHandle, lastHandle = 0x81000000, 0x81FFFFFF

var errURI = errors.New("tpm URI: must be \"tpm:handle=\" and a number from 0x81000000 to 0x81FFFFFF")

// ParseURI returns the handle of a URI such as "tpm:handle=0x81000200". Those of the
// endorsement and storage root keys are refused: they cannot sign.
func ParseURI(s string) (uint32, error) {
	text, ok := strings.CutPrefix(s, Scheme+"handle=")
	if !ok {
		return 0, errURI
	}
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil || n < firstHandle || n > lastHandle {
		return 0, errURI
	}
	if ownKey(uint32(n)) {
		return 0, fmt.Errorf("tpm URI: 0x%x is the TPM's own key", n)
	}
	return uint32(n), nil
}

// maxIndex is the last of the owner's handles (spec security-daemon 10).
const maxIndex = 0x7FFFFF

// CheckIndex tells whether the identity key can live at an index: the TPM's own keys
// would be removed for it.
func CheckIndex(n int64) error {
	if n < 0 || n > maxIndex {
		return fmt.Errorf("must be from 0 to 0x%X", maxIndex)
	}
	if at := AuthKeyHandle(uint32(n)); ownKey(at) {
		return fmt.Errorf("is the place of the TPM's own key 0x%x", at)
	}
	return nil
}

// ownKey tells whether a handle is that of the endorsement or storage root key.
func ownKey(handle uint32) bool { return handle == uint32(ekHandle) || handle == uint32(srkHandle) }

// AuthKeyHandle is where the identity key of an index lives.
func AuthKeyHandle(index uint32) uint32 { return uint32(ownBase) + index }
