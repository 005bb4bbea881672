package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/willabides/kongplete"
)

// scripts have the shell call the program itself, with the line so far in the
// variable COMP_LINE.
var scripts = map[string]string{
	"bash": "complete -C PROGRAM edgectl\n",
	"zsh":  "#compdef edgectl\nautoload -U +X bashcompinit && bashcompinit\n_bash_complete -C PROGRAM\n",
	"fish": `function __complete_edgectl
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct)
    and set COMP_LINE "$COMP_LINE "
    PROGRAM
end
complete -f -c edgectl -a "(__complete_edgectl)"
`,
}

type completeCmd struct {
	Shell   string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
	Program string `placeholder:"PATH" help:"Where edgectl will be; by default where it is."`
}

// Run prints the script.
func (c completeCmd) Run(e *env) error {
	if c.Program == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("own path: %w", err)
		}
		c.Program = self
	}
	if !filepath.IsAbs(c.Program) || strings.ContainsAny(c.Program, " \t\n\"'$\\`;&|<>()") {
		return fmt.Errorf("%q is no absolute path that every shell takes as it is", c.Program)
	}
	_, err := io.WriteString(e.stdout, strings.ReplaceAll(scripts[c.Shell], "PROGRAM", c.Program))
	return err
}

// suggest answers a shell that completes a line and returns the exit code.
func suggest(parser *kong.Kong, stderr io.Writer) int {
	code := 0
	kongplete.Complete(parser, kongplete.WithExitFunc(func(c int) { code = c }),
		kongplete.WithErrorHandler(func(err error) { fmt.Fprintln(stderr, "edgectl:", err) }))
	return code
}
