// Package bench measures the built programs: edgehub beside other MQTT servers, with
// a long backlog, with many connections, when it starts; and what the programs of a
// device take of memory and disk. All servers of a table are measured in one run and
// in turns, over TLS, by the same clients. A figure alone says little, since it
// depends on the machine; the ratios do not so much.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// Options configure Run.
type Options struct {
	Bin, Dir string
	Root     string // of the source tree, for images and the device
	Rounds   int
	For      time.Duration // each measurement of the load
	Backlog  int           // messages
	Crowds   []int         // numbers of connections, rising
	Only     []string      // sections; all if empty
	Out      io.Writer
	Say      func(format string, a ...any)
}

// dir is a folder for a part of a section; start makes it.
func (o Options) dir(name string) string { return filepath.Join(o.Dir, name) }

// Bar is a number that the design asks for.
type Bar struct {
	What, Limit, Result string
	Holds               bool
}

// sections are what can be measured. Each prints its tables.
var sections = []struct {
	name, title string
	run         func(context.Context, Options) ([]Bar, error)
}{
	{"load", "edgehub and other MQTT servers", load},
	{"backlog", "messages that nobody takes", backlog},
	{"idle", "memory of idle connections", idle},
	{"start", "from exec to clients", start},
	{"sizes", "sizes of images", sizes},
	{"rest", "memory of a device at rest", rest},
}

// Sections are the names that Options.Only may have.
func Sections() []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

// Run measures and prints, and at the end the bars of the design.
func Run(ctx context.Context, o Options) error {
	for _, name := range o.Only {
		if !slices.Contains(Sections(), name) {
			return fmt.Errorf("no section %q: there are %s", name, strings.Join(Sections(), ", "))
		}
	}
	fmt.Fprintln(o.Out, machine())
	var bars []Bar
	for _, s := range sections {
		if len(o.Only) > 0 && !slices.Contains(o.Only, s.name) {
			continue
		}
		o.Say("%s: %s", s.name, s.title)
		fmt.Fprintf(o.Out, "\n== %s\n\n", s.title)
		list, err := s.run(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		bars = append(bars, list...)
	}
	fmt.Fprint(o.Out, "\n== the bars of the design\n\n")
	w := table(o.Out)
	fmt.Fprintln(w, "bar\tlimit\tresult\tholds\t")
	for _, b := range bars {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", b.What, b.Limit, b.Result, map[bool]string{true: "yes", false: "NO"}[b.Holds])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(o.Out, "\n%s\n", machine())
	return err
}

// machine is what figures depend on: the processors, the kernel, and what else went on.
func machine() string {
	var name unix.Utsname
	_ = unix.Uname(&name) // it has no error for a buffer that exists
	load := "unknown"
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = strings.Join(strings.Fields(string(raw))[:3], " ")
	}
	return fmt.Sprintf("%s, Linux %s, %d processors, load average %s", time.Now().Format(time.DateTime),
		unix.ByteSliceToString(name.Release[:]), runtime.NumCPU(), load)
}

func table(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }
