// Command edged-verify judges signatures of images for edged, which starts it for
// each image and speaks to it over its standard input and output. It is of no use
// by hand.
//
// It reads what strangers have put into registries, so as root it first becomes
// nobody.
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify/judge"
)

const nobody = 65534

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "edged-verify:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if os.Geteuid() == 0 {
		if err := dropRoot(); err != nil {
			return fmt.Errorf("become nobody: %w", err)
		}
	}
	return verify.Serve(ctx, os.Stdin, os.Stdout, judge.Judge)
}

func dropRoot() error {
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
		return err
	}
	return syscall.Setresuid(nobody, nobody, nobody)
}
