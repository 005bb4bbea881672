package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Host is one of the rig's hosts, a network namespace.
type Host string

// The rig's hosts.
const (
	Cloud  Host = "bw-cloud"
	Device Host = "bw-device"
	Leaf   Host = "bw-leaf"
)

// Names and addresses in the rig's world.
const (
	HubName    = "hub.breakwater.test"
	DeviceName = "edge-1.breakwater.test"

	cloudAddr        = "10.90.1.2"
	deviceToCloud    = "10.90.1.1"
	deviceToLeaf     = "10.90.2.1"
	leafAddr         = "10.90.2.2"
	netnsHostsFolder = "/etc/netns"
)

var hosts = []Host{Cloud, Device, Leaf}

// run runs a command to its end and returns what it wrote, with its standard error
// in the error.
func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(stderr.String())
		if text == "" {
			text = strings.TrimSpace(stdout.String())
		}
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, text)
	}
	return stdout.String(), nil
}

// cables join the device to the other hosts. The device's end is named after the
// other host, that of the other host "device".
var cables = []struct {
	to             Host
	name           string
	device, remote string // addresses
}{
	{Cloud, "cloud", deviceToCloud, cloudAddr},
	{Leaf, "leaf", deviceToLeaf, leafAddr},
}

// buildNetwork makes the hosts and their cables.
func buildNetwork(ctx context.Context) error {
	for _, h := range hosts {
		if err := addHost(ctx, h); err != nil {
			return err
		}
	}
	return plugDevice(ctx)
}

func addHost(ctx context.Context, h Host) error {
	if _, err := run(ctx, "ip", "netns", "add", string(h)); err != nil {
		return err
	}
	if err := writeHostsFile(h); err != nil {
		return err
	}
	_, err := run(ctx, "ip", "-n", string(h), "link", "set", "lo", "up")
	return err
}

// plugDevice makes the cables.
func plugDevice(ctx context.Context) error {
	device := string(Device)
	for _, c := range cables {
		for _, step := range [][]string{
			{"-n", device, "link", "add", c.name, "type", "veth", "peer", "name", "device", "netns", string(c.to)},
			{"-n", device, "addr", "add", c.device + "/30", "dev", c.name},
			{"-n", string(c.to), "addr", "add", c.remote + "/30", "dev", "device"},
			{"-n", device, "link", "set", c.name, "up"},
			{"-n", string(c.to), "link", "set", "device", "up"},
		} {
			if _, err := run(ctx, "ip", step...); err != nil {
				return err
			}
		}
	}
	return nil
}

// replaceDevice takes the device's host with its cables away and makes a new one,
// as the machine's network is after a reboot. Nothing of the rig listens there then.
func replaceDevice(ctx context.Context) error {
	killAll(ctx, Device)
	for _, c := range cables {
		if _, err := run(ctx, "ip", "-n", string(c.to), "link", "del", "device"); err != nil {
			return err
		}
	}
	if _, err := run(ctx, "ip", "netns", "del", string(Device)); err != nil {
		return err
	}
	if err := addHost(ctx, Device); err != nil {
		return err
	}
	return plugDevice(ctx)
}

// writeHostsFile gives a host its /etc/hosts: `ip netns exec` binds it there.
func writeHostsFile(h Host) error {
	dir := filepath.Join(netnsHostsFolder, string(h))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("hosts file of %s: %w", h, err)
	}
	deviceAddr := deviceToCloud
	if h == Leaf {
		deviceAddr = deviceToLeaf
	}
	text := fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n%s %s\n", cloudAddr, HubName, deviceAddr, DeviceName)
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(text), 0o644); err != nil {
		return fmt.Errorf("hosts file of %s: %w", h, err)
	}
	return nil
}

// SetLink plugs (up) or pulls (down) the cable between the device and the cloud or
// the leaf.
func SetLink(ctx context.Context, h Host, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	_, err := run(ctx, "ip", "-n", string(h), "link", "set", "device", state)
	return err
}

// removeNetwork ends what still runs in the hosts and removes them. Missing hosts
// are no error.
func removeNetwork(ctx context.Context) error {
	var errs []error
	for _, h := range hosts {
		if _, err := os.Stat(filepath.Join("/run/netns", string(h))); err == nil {
			killAll(ctx, h)
			if _, err := run(ctx, "ip", "netns", "del", string(h)); err != nil {
				errs = append(errs, err)
			}
		}
		if err := os.RemoveAll(filepath.Join(netnsHostsFolder, string(h))); err != nil {
			errs = append(errs, err)
		}
	}
	// The folder is ours only if nobody else keeps a host in it.
	if err := os.Remove(netnsHostsFolder); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func killAll(ctx context.Context, h Host) {
	deadline := time.Now().Add(5 * time.Second)
	for {
		out, err := run(ctx, "ip", "netns", "pids", string(h))
		pids := strings.Fields(out)
		if err != nil || len(pids) == 0 || time.Now().After(deadline) {
			return
		}
		for _, p := range pids {
			if pid, err := strconv.Atoi(p); err == nil && pid != os.Getpid() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// within runs fn on a thread that is in the host's network.
func (h Host) within(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer home.Close()
		result <- h.visit(fn)
		// A thread that cannot go home stays locked and ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return <-result
}

// visit runs fn in the host's network, where the thread stays.
func (h Host) visit(fn func() error) error {
	f, err := os.Open(filepath.Join("/run/netns", string(h)))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", h, err)
	}
	return fn()
}

// Listen opens a TCP listener in the host's network.
func (h Host) Listen(addr string) (net.Listener, error) {
	var l net.Listener
	err := h.within(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	return l, err
}

// Dial opens a TCP connection from the host. The address must be numeric.
func (h Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := h.within(func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}
