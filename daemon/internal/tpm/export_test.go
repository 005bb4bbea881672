package tpm

// ParsePackage reads a credential package.
func ParsePackage(blob []byte) error {
	_, err := parsePackage(blob)
	return err
}
