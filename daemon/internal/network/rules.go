package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
)

// rules are the network's own netfilter rules: one chain for what is forwarded to
// and from the bridge, ahead of a policy or rule of the host that drops, and one
// rule that hides the modules' addresses from the outside. They are per network,
// not per module, so nothing can stay behind when a module dies.
type rules struct {
	name   string
	bridge string
	subnet netip.Prefix
}

func (r rules) chain() string { return "BREAKWATER-" + r.bridge }

func (r rules) jump() []string {
	return []string{"FORWARD", "-m", "comment", "--comment", "module network " + r.name, "-j", r.chain()}
}

func (r rules) masquerade() []string {
	return []string{
		"POSTROUTING", "-s", r.subnet.String(), "!", "-o", r.bridge,
		"-m", "comment", "--comment", "module network " + r.name, "-j", "MASQUERADE",
	}
}

// forward lists the chain: modules reach everything; from outside only answers
// and published ports come in.
func (r rules) forward() [][]string {
	return [][]string{
		{"-i", r.bridge, "-j", "ACCEPT"},
		{"-o", r.bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT", "-j", "ACCEPT"},
		{"-o", r.bridge, "-j", "DROP"},
	}
}

// ensure puts missing rules in place.
func (r rules) ensure(ctx context.Context) error {
	if iptables(ctx, "filter", "-C", r.jump()...) != nil {
		if err := r.rebuild(ctx); err != nil {
			return err
		}
	}
	if iptables(ctx, "nat", "-C", r.masquerade()...) != nil {
		return iptables(ctx, "nat", "-A", r.masquerade()...)
	}
	return nil
}

func (r rules) rebuild(ctx context.Context) error {
	if iptables(ctx, "filter", "-N", r.chain()) != nil {
		if err := iptables(ctx, "filter", "-F", r.chain()); err != nil {
			return err
		}
	}
	for _, rule := range r.forward() {
		if err := iptables(ctx, "filter", "-A", append([]string{r.chain()}, rule...)...); err != nil {
			return err
		}
	}
	return iptables(ctx, "filter", "-I", r.jump()...)
}

// remove takes the rules away; those that are not there are no error.
func (r rules) remove(ctx context.Context) error {
	var errs []error
	if iptables(ctx, "filter", "-C", r.jump()...) == nil {
		errs = append(errs, iptables(ctx, "filter", "-D", r.jump()...))
	}
	if iptables(ctx, "filter", "-F", r.chain()) == nil {
		errs = append(errs, iptables(ctx, "filter", "-X", r.chain()))
	}
	if iptables(ctx, "nat", "-C", r.masquerade()...) == nil {
		errs = append(errs, iptables(ctx, "nat", "-D", r.masquerade()...))
	}
	return errors.Join(errs...)
}

func iptables(ctx context.Context, table, action string, args ...string) error {
	args = append([]string{"-w", "-t", table, action}, args...)
	out, err := exec.CommandContext(ctx, "iptables", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// deleteLink removes the bridge if it is there.
func deleteLink(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil //nolint:nilerr // it is not there
	}
	out, err := exec.Command("ip", "link", "delete", name, "type", "bridge").CombinedOutput()
	if err != nil {
		return fmt.Errorf("delete bridge %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
