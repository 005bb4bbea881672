// Command edged-log writes the log of one module. The container's shim starts it for
// edged, and it lives as long as the module, whether edged does or not. It is a
// program of its own because there is one for every module: edged itself would take
// many times the memory.
//
// Usage: edged-log log-writer SETTINGS
package main

import (
	"fmt"
	"os"

	"github.com/breakwater-iot/breakwater/daemon/internal/modlog"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != modlog.WriterCommand {
		fmt.Fprintln(os.Stderr, "edged-log: started by edged for the log of a module, and of no use by hand")
		os.Exit(2)
	}
	if err := modlog.RunWriter(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "edged-log:", err)
		os.Exit(1)
	}
}
