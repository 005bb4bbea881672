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

// rules are the network's own netfilter rules for one family of addresses: one chain for
// what is forwarded to and from the bridge, ahead of a policy or rule of the host that
// drops, and one rule that hides the modules' addresses from the outside. They are per
// network, not per module, so nothing can stay behind when a module dies.
type rules struct {
	name   string
	bridge string
	subnet netip.Prefix
}

// rulesOf are those of each family that a network of this shape has.
func rulesOf(s Shape) []rules {
	var out []rules
	for _, p := range []netip.Prefix{s.V4.Subnet, s.V6.Subnet} {
		if p.IsValid() {
			out = append(out, rules{name: s.Name, bridge: s.Bridge, subnet: p})
		}
	}
	return out
}

func (r rules) chain() string { return "BREAKWATER-" + r.bridge }

func (r rules) jump() []string {
	return []string{"FORWARD", "-m", "comment", "--comment", "module network " + r.name, "-j", r.chain()}
}

// nat lists the rules of the nat table.
func (r rules) nat() [][]string {
	hide := []string{
		"POSTROUTING", "-s", r.subnet.String(), "!", "-o", r.bridge,
		"-m", "comment", "--comment", "module network " + r.name, "-j", "MASQUERADE",
	}
	if r.subnet.Addr().Is4() {
		return [][]string{hide}
	}
	// The kernel cannot send what is for its own ::1 to a module: with a bridge that is
	// filtered the answers are dropped. So published ports do not take it from whoever
	// listens there.
	return [][]string{hide, {
		"OUTPUT", "-d", "::1/128", "-m", "comment", "--comment", "module network " + r.name, "-j", "ACCEPT",
	}}
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
	if r.iptables(ctx, "filter", "-C", r.jump()...) != nil {
		if err := r.rebuild(ctx); err != nil {
			return err
		}
	}
	for _, rule := range r.nat() {
		if r.iptables(ctx, "nat", "-C", rule...) == nil {
			continue
		}
		action := "-A"
		if rule[0] == "OUTPUT" { // before those of the plugins
			action = "-I"
		}
		if err := r.iptables(ctx, "nat", action, rule...); err != nil {
			return err
		}
	}
	return nil
}

func (r rules) rebuild(ctx context.Context) error {
	if r.iptables(ctx, "filter", "-N", r.chain()) != nil {
		if err := r.iptables(ctx, "filter", "-F", r.chain()); err != nil {
			return err
		}
	}
	for _, rule := range r.forward() {
		if err := r.iptables(ctx, "filter", "-A", append([]string{r.chain()}, rule...)...); err != nil {
			return err
		}
	}
	return r.iptables(ctx, "filter", "-I", r.jump()...)
}

// remove takes the rules away; those that are not there are no error.
func (r rules) remove(ctx context.Context) error {
	var errs []error
	if r.iptables(ctx, "filter", "-C", r.jump()...) == nil {
		errs = append(errs, r.iptables(ctx, "filter", "-D", r.jump()...))
	}
	if r.iptables(ctx, "filter", "-F", r.chain()) == nil {
		errs = append(errs, r.iptables(ctx, "filter", "-X", r.chain()))
	}
	for _, rule := range r.nat() {
		if r.iptables(ctx, "nat", "-C", rule...) == nil {
			errs = append(errs, r.iptables(ctx, "nat", "-D", rule...))
		}
	}
	return errors.Join(errs...)
}

func (r rules) iptables(ctx context.Context, table, action string, args ...string) error {
	program := "iptables"
	if r.subnet.Addr().Is6() {
		program = "ip6tables"
	}
	args = append([]string{"-w", "-t", table, action}, args...)
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// makeBridge makes the bridge if it is not there, which the plugin would do as well, and
// lets its addresses be used at once. Else the gateway would not answer the first modules
// for about two seconds, while the kernel asks whether somebody else has its address.
func makeBridge(ctx context.Context, name string) error {
	if _, err := net.InterfaceByName(name); err == nil {
		return nil
	}
	out, err := exec.CommandContext(ctx, "ip", "link", "add", "name", name, "type", "bridge").CombinedOutput()
	if err != nil {
		return fmt.Errorf("make bridge %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return setSysctl(procFiles, name, "accept_dad", "0")
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
