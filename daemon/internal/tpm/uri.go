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
	if n == uint64(ekHandle) || n == uint64(srkHandle) {
		return 0, fmt.Errorf("tpm URI: 0x%x is the TPM's own key", n)
	}
	return uint32(n), nil
}

// AuthKeyHandle is where the identity key of an index lives.
func AuthKeyHandle(index uint32) uint32 { return uint32(ownBase) + index }
