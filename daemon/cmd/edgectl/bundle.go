package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

type bundleCmd struct {
	Output  string `short:"o" placeholder:"FILE" help:"File to write, - for standard output; by default named after the time."`
	Since   string `default:"1 day" help:"Only log lines since a time, or a duration ago."`
	Until   string `help:"Only log lines before a time, or a duration ago."`
	Runtime bool   `short:"e" name:"include-edge-runtime-only" help:"Only edgeAgent and edgeHub."`
	Quiet   bool   `short:"q" help:"Do not say where the file is."`
}

// Run fetches the bundle. A file appears when it is whole, readable by its owner
// only: what modules log is nobody else's business.
func (b bundleCmd) Run(e *env) error {
	conn, err := e.connect()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stream, err := managementv1.NewSystemClient(conn).SupportBundle(e.ctx, &managementv1.SupportBundleRequest{
		Since: b.Since, Until: b.Until, EdgeRuntimeOnly: b.Runtime,
	})
	if err != nil {
		return err
	}
	next := func() ([]byte, error) {
		chunk, err := stream.Recv()
		return chunk.GetData(), err
	}
	if b.Output == "-" {
		return copyChunks(e.stdout, next)
	}
	name := b.Output
	if name == "" {
		name = "support_bundle_" + time.Now().UTC().Format("2006_01_02_15_04_05") + "_UTC.zip"
	}
	if err := writeWhole(name, next); err != nil || b.Quiet {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, name)
	return err
}

// writeWhole writes a file beside its place and moves it there at the end.
func writeWhole(name string, next func() ([]byte, error)) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".support_bundle_")
	if err != nil {
		return err
	}
	err = errors.Join(copyChunks(f, next), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func copyChunks(w io.Writer, next func() ([]byte, error)) error {
	for {
		data, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
}
