package dps

// For the fuzz tests.

func ParseEnrollment(id string, body []byte) error {
	_, err := parseEnrollment(id, body, nil)
	return err
}

func ParseGroup(id string, body []byte) error {
	_, err := parseGroup(id, body, nil)
	return err
}

func ParseRegistration(id string, body []byte) error {
	_, err := parseRegistration(id, body)
	return err
}

func ParseStorageKey(text string) error {
	_, err := parseStorageKey(text)
	return err
}

// WrapFor wraps a key for a TPM that has one key for both purposes.
func WrapFor(text string, key []byte) error {
	k, err := parseStorageKey(text)
	if err != nil {
		return err
	}
	_, err = wrapKey(k, k, key)
	return err
}
