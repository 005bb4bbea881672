//go:build e2e

package e2e

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// storage has the agent upload to a storage server that is not ours, over TLS, and
// looks at what is there with the stock client.
func (p *path) storage(t *testing.T) {
	ctx := p.within(t, time.Minute)
	s, err := p.StartStorage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	address, err := s.Grant(ctx, "device-logs")
	if err != nil {
		t.Fatal(err)
	}
	target := fmt.Sprintf(`"schemaVersion":"1.0","sasUrl":%q`, address)
	const sensor = `"items":[{"id":"sensor","filter":{"tail":50}}]`
	for _, more := range []string{
		sensor,
		sensor + `,"encoding":"gzip"`,
		sensor + `,"contentType":"json"`,
		sensor + `,"contentType":"json","encoding":"gzip"`,
	} {
		p.task(t, ctx, "UploadModuleLogs", "{"+target+","+more+"}")
	}
	p.task(t, ctx, "UploadSupportBundle", "{"+target+`,"edgeRuntimeOnly":true}`)
	blobs, err := s.Blobs(ctx, "device-logs")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]rig.Blob{}
	for _, b := range blobs {
		folder, name, _ := strings.Cut(b.Path, rig.EdgeID+"/")
		if folder != rig.HubName+"/" {
			t.Errorf("a blob is called %s", b.Path)
		}
		_, extension, _ := strings.Cut(name, ".")
		found[extension] = b
	}
	for extension, want := range map[string]rig.Blob{
		"log":     {Kind: "AppendBlob", Type: "text/plain"},
		"log.gz":  {Kind: "AppendBlob", Type: "text/plain", Encoding: "gzip"},
		"json":    {Kind: "BlockBlob", Type: "application/json"},
		"json.gz": {Kind: "BlockBlob", Type: "application/json", Encoding: "gzip"},
		"zip":     {Kind: "BlockBlob", Type: "application/zip"},
	} {
		b := found[extension]
		if b.Kind != want.Kind || b.Type != want.Type || b.Encoding != want.Encoding {
			t.Errorf("%s is a %s of %s, %q", b.Path, b.Kind, b.Type, b.Encoding)
		}
		if err := readable(b, extension); err != nil {
			t.Errorf("%s: %v", b.Path, err)
		}
	}
	if len(blobs) != 5 {
		t.Errorf("%d blobs", len(blobs))
	}
}

// readable checks that a blob is what its name says, and holds something.
func readable(b rig.Blob, extension string) error {
	kind, zipped := strings.CutSuffix(extension, ".gz")
	content := b.Content
	if zipped {
		z, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			return err
		}
		if content, err = io.ReadAll(z); err != nil {
			return err
		}
	}
	switch kind {
	case "zip":
		z, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
		if err == nil && len(z.File) < 3 {
			err = fmt.Errorf("%d files", len(z.File))
		}
		return err
	case "json":
		var lines []struct{ Text, Device string }
		if err := json.Unmarshal(content, &lines); err != nil {
			return err
		}
		if len(lines) == 0 || lines[0].Device != rig.EdgeID || lines[0].Text == "" {
			return fmt.Errorf("%.300s", content)
		}
		return nil
	}
	if !bytes.Contains(content, []byte(`"msg":`)) {
		return fmt.Errorf("%.300q", content)
	}
	return nil
}
