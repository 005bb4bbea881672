// Command edgectl is the operator's command line on the device: it lists modules,
// shows their logs and restarts them, through the daemon's management socket, and
// checks the device.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// version is set by the build.
var version = "dev"

type cli struct {
	Host string `short:"H" env:"IOTEDGE_HOST" default:"unix:///var/run/iotedge/mgmt.sock" help:"URI of the management API."`

	List      listCmd      `cmd:"" help:"List modules."`
	Logs      logsCmd      `cmd:"" help:"Show what a module wrote."`
	Restart   restartCmd   `cmd:"" help:"Stop and start a module."`
	Check     checkCmd     `cmd:"" help:"Look for what is wrong with this device (as root)."`
	CheckList checkListCmd `cmd:"" help:"List the checks."`
	Bundle    bundleCmd    `cmd:"" name:"support-bundle" help:"Collect logs and states into a zip file."`
	System    systemCmd    `cmd:"" help:"Act on the whole runtime."`
	Config    configCmd    `cmd:"" help:"Make and apply the configuration (as root)."`
	Complete  completeCmd  `cmd:"" name:"completion" help:"Print what a shell needs to complete commands and flags."`
	Version   versionCmd   `cmd:"" help:"Print the version."`
}

// env is what commands work with.
type env struct {
	ctx            context.Context
	host           string
	stdin          io.Reader
	stdout, stderr io.Writer
	tool           runner
	// root is put before the paths of the system's files; empty in the product.
	root string
}

// path returns where a file of the system is.
func (e *env) path(name string) string { return filepath.Join(e.root, name) }

// errShown says that the output has told already what is wrong.
var errShown = errors.New("see above")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(os.Args[1:], &env{ctx: ctx, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, tool: execute})
	stop()
	os.Exit(code)
}

// run returns the exit code: 0, 1 for a failure, 2 for wrong usage.
func run(args []string, e *env) int {
	var c cli
	ctx, stdout, stderr := e.ctx, e.stdout, e.stderr
	exit := -1
	parser, err := kong.New(&c, kong.Name("edgectl"), kong.Description("Control the IoT Edge runtime of this device."),
		kong.Writers(stdout, stderr), kong.Exit(func(code int) { exit = code }), kong.Vars(defaults))
	if err != nil {
		fmt.Fprintln(stderr, "edgectl:", err)
		return 2
	}
	if os.Getenv("COMP_LINE") != "" { // the shell asks
		return suggest(parser, stderr)
	}
	parsed, err := parser.Parse(args)
	if exit >= 0 {
		return exit // --help was shown
	}
	if err != nil {
		fmt.Fprintln(stderr, "edgectl:", err)
		return 2
	}
	e.host = c.Host
	err = parsed.Run(e)
	if err == nil || ctx.Err() != nil {
		return 0
	}
	if !errors.Is(err, errShown) {
		fmt.Fprintln(stderr, "edgectl:", describe(err))
	}
	return 1
}

// describe says in one line what to do about an error.
func describe(err error) string {
	// Not status.FromError, which writes the wrapping text into the message.
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return err.Error()
	}
	st := carrier.GRPCStatus()
	switch st.Code() {
	case codes.Unavailable:
		// The transport's text repeats itself; the system's word at its end tells.
		text := st.Message()
		switch {
		case strings.Contains(text, "permission denied"):
			return "not permitted to open the management socket: run as root or as a member of group iotedge"
		case strings.Contains(text, "no such file"), strings.Contains(text, "connection refused"):
			return "the daemon cannot be reached: it does not run, or not with this socket; see edgectl system status (" + text + ")"
		}
		return "the daemon cannot be reached: " + text
	case codes.PermissionDenied:
		return "not permitted: run as root or as a member of group iotedge"
	}
	return st.Message()
}

type versionCmd struct{}

func (versionCmd) Run(e *env) error {
	_, err := fmt.Fprintln(e.stdout, "edgectl", version)
	return err
}

var errUsage = errors.New("only unix:// URIs are supported")
