package tpm

// ParsePackage reads a credential package.
func ParsePackage(blob []byte) error {
	_, err := parsePackage(blob)
	return err
}

// ParseWrapped reads what a TPM has wrapped.
func ParseWrapped(text []byte) error {
	_, err := unwrap(oidKey, text)
	return err
}
