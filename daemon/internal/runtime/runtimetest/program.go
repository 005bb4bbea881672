package runtimetest

import (
	"fmt"
	"strconv"
	"strings"
)

// Program is what a module of the suite does, in this order: say lines on
// standard output, complain on standard error, then exit or wait for a signal.
// The engine under test must have an image whose entrypoint does it; the fake
// does it by itself. A module whose command is something else just waits.
type Program struct {
	Say, Complain []string
	// Exit is the exit code, or -1 to wait for SIGTERM and exit with 0.
	Exit int
	// Stubborn programs do not end by SIGTERM.
	Stubborn bool
}

// Args is the program as a command line.
func (p Program) Args() []string {
	var args []string
	for _, s := range p.Say {
		args = append(args, "say="+s)
	}
	for _, s := range p.Complain {
		args = append(args, "complain="+s)
	}
	if p.Stubborn {
		args = append(args, "stubborn")
	}
	return append(args, fmt.Sprintf("exit=%d", p.Exit))
}

func parseProgram(args []string) Program {
	p := Program{Exit: -1}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "say":
			p.Say = append(p.Say, value)
		case "complain":
			p.Complain = append(p.Complain, value)
		case "stubborn":
			p.Stubborn = true
		case "exit":
			if n, err := strconv.Atoi(value); err == nil {
				p.Exit = n
			}
		}
	}
	return p
}
