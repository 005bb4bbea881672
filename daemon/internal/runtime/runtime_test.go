package runtime_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

func TestNames(t *testing.T) {
	for _, good := range []string{"edgeHub", "a", "A-1.b_c", strings.Repeat("x", 76)} {
		if err := runtime.CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "-a", "a-", "a--b", "a/b", "a b", "ä", "$edgeHub", strings.Repeat("x", 77)} {
		if err := runtime.CheckName(bad); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	auth := runtime.Auth{Username: "u", Password: "hunter2"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "auth", auth, "password", auth.Password)
	text, err := json.Marshal(auth)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s %q", auth, auth, auth, auth.Password, auth.Password), log.String(), string(text)} {
		if strings.Contains(s, "hunter2") {
			t.Errorf("the password shows: %s", s)
		}
	}
}
