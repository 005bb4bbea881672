package hubrig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// network is a namespace for the hub with a cable to this machine.
type network struct {
	name      string // of the namespace
	cable     string // this machine's end
	hub, edge string // addresses
}

// prefix begins the names of namespaces; the process id and a number follow.
const prefix = "bwhub-"

var made atomic.Int32

func newNetwork(ctx context.Context) (*network, error) {
	removeStale()
	n := int(made.Add(1))
	block := (os.Getpid()*8 + n) % (1 << 14) // 16384 networks of 4 addresses
	address := func(i int) string { return fmt.Sprintf("10.213.%d.%d", block>>6, block&63<<2+i) }
	w := &network{
		name: fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), n), cable: fmt.Sprintf("bwh%d", block),
		hub: address(1), edge: address(2),
	}
	for _, args := range []string{
		"netns add " + w.name,
		"link add " + w.cable + " type veth peer name cloud netns " + w.name,
		"addr add " + w.hub + "/30 dev " + w.cable,
		"-n " + w.name + " addr add " + w.edge + "/30 dev cloud",
		"link set " + w.cable + " up",
		"-n " + w.name + " link set cloud up",
		"-n " + w.name + " link set lo up",
	} {
		if err := ip(ctx, args); err != nil {
			return w, err
		}
	}
	return w, nil
}

// remove takes the cable away with the namespace.
func (w *network) remove() error { return ip(context.Background(), "netns del "+w.name) }

func ip(ctx context.Context, args string) error {
	out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// removeStale removes the namespaces of rigs whose process has ended without.
func removeStale() {
	names, err := filepath.Glob("/run/netns/" + prefix + "*")
	if err != nil {
		return
	}
	for _, path := range names {
		name := filepath.Base(path)
		owner, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "-")
		pid, err := strconv.Atoi(owner)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = ip(context.Background(), "netns del "+name) // another rig may do the same
		}
	}
}
