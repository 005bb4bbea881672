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

// newChildNetwork makes a namespace for a hub that reaches its parent, and neither
// the cloud nor anything else, by a cable of its own.
func newChildNetwork(ctx context.Context, parent *network) (*network, error) {
	w, err := newNetwork(ctx)
	if err != nil {
		return w, err
	}
	n := int(made.Add(1))
	block := (os.Getpid()*8 + n) % (1 << 14)
	up := fmt.Sprintf("10.213.%d.%d", block>>6, block&63<<2+1)
	down := fmt.Sprintf("10.213.%d.%d", block>>6, block&63<<2+2)
	for _, args := range []string{
		"-n " + w.name + " link add parent type veth peer name child" + strconv.Itoa(n) + " netns " + parent.name,
		"-n " + parent.name + " addr add " + up + "/30 dev child" + strconv.Itoa(n),
		"-n " + w.name + " addr add " + down + "/30 dev parent",
		"-n " + parent.name + " link set child" + strconv.Itoa(n) + " up",
		"-n " + w.name + " link set parent up",
		"-n " + w.name + " route add " + parent.edge + "/32 via " + up,
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
