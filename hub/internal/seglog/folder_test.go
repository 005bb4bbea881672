package seglog_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
	"github.com/breakwater-iot/breakwater/proto/filelock/filelocktest"
)

func TestOneLogPerFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "messages")
	f, err := seglog.Dir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seglog.Dir(path); !errors.Is(err, seglog.ErrInUse) {
		t.Errorf("second lock: %v", err)
	}
	filelocktest.Inherit(t, path)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := seglog.Dir(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
