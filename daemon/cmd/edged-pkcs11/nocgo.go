//go:build !cgo

// Command edged-pkcs11 runs a PKCS#11 library for edged. This build cannot: PKCS#11
// libraries are called through cgo.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "edged-pkcs11: built without cgo, and so without PKCS#11: build it with CGO_ENABLED=1 and a C compiler")
	os.Exit(1)
}
