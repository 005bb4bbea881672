package redact

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A name is found from its hint where the pattern alone would find it.
func TestNamesAreFoundByTheirHints(t *testing.T) {
	names := []string{
		"SharedAccessKey=", "AccountKey=", `symmetric_key = { value = "`, `device_id_pk={value='`, "sig=", "Authorization: Bearer ",
		"bearer ", "basic ", "--password ", "--passwd ", "--token ", "--secret ", "password=", "passwd: ", "passphrase=", "pin-value=",
		"secret=", "credential=", "api_key=", "api-key=", "apikey=", "primary_key=", "encryptionKey: ", "encryption_key: ",
		"masterkey=", "access_token=", "refresh_token=", "identityToken: ", "x-registry-auth: ", `"auth":"`,
	}
	fill := []string{"x", " ", "key", "tok", "word ", "SIG", "://", "-", "_", "\"", "é"}
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(list []string) string { return list[random.IntN(len(list))] }
	for range 300 {
		var b strings.Builder
		for range random.IntN(30) {
			b.WriteString(pick(fill))
		}
		b.WriteString(pick(names))
		b.WriteString(pick(fill))
		b.WriteString(pick(names))
		text := []byte(b.String())
		f := finder{text: text}
		for from := 0; from <= len(text); from += 1 + random.IntN(20) {
			if got, want := f.findNamed(text[from:]), patterns().named.FindIndex(text[from:]); !slices.Equal(got, want) {
				t.Fatalf("%q from %d: %v, want %v", text, from, got, want)
			}
		}
	}
}
