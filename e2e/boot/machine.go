// Package boot runs a machine of its own on this one, whose first process is a real
// systemd: namespaces in place of a virtual machine. Its programs and its kernel are those
// of this machine; its configuration, its state, its processes and its control groups are
// its own. It can be rebooted.
package boot

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

//go:embed machine.sh
var script []byte

// group is the machine's control group, below the root of this machine's.
const group = "breakwater-machine"

// patience is how long a start and an end may take.
const patience = time.Minute

// Options describe a machine.
type Options struct {
	// Dir is an empty folder for the machine's disk and its log. The caller removes it.
	Dir string
	// Network is a network namespace of `ip netns`, whose file of hosts counts.
	Network string
	Name    string // of the host
	// Source is the folder that the machine sees as /mnt, read-only.
	Source string
}

// Machine is a machine with systemd. It is for one goroutine.
type Machine struct {
	o     Options
	first *exec.Cmd // nil when the machine is off
	ended chan error
}

// needs are files without which no machine can be made, and what brings them.
var needs = [][2]string{
	{"/usr/lib/systemd/systemd", "the package systemd (deploy/setup.sh installs it)"},
	{"/usr/lib/systemd/system/containerd.service", "the package containerd (deploy/setup.sh installs it)"},
	{"/usr/share/base-passwd/passwd.master", "a Debian system"},
}

// New prepares a machine that is off. It fails if this machine cannot have one, and says
// what is missing.
func New(o Options) (*Machine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a machine with systemd needs root")
	}
	for _, n := range needs {
		if _, err := os.Stat(n[0]); err != nil {
			return nil, fmt.Errorf("a machine with systemd needs %s: %w", n[1], err)
		}
	}
	m := &Machine{o: o}
	for _, dir := range []string{m.disk("cgroup"), m.disk("root")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("disk of the machine: %w", err)
		}
	}
	hosts, err := os.ReadFile(filepath.Join("/etc/netns", o.Network, "hosts"))
	if err != nil {
		return nil, fmt.Errorf("hosts of the machine: %w", err)
	}
	for name, text := range map[string][]byte{"machine.sh": script, "hosts": hosts, "hostname": []byte(o.Name + "\n")} {
		if err := os.WriteFile(m.disk(name), text, 0o644); err != nil {
			return nil, fmt.Errorf("disk of the machine: %w", err)
		}
	}
	// One that an earlier run has left ends here.
	if err := m.removeGroup(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Machine) disk(name string) string { return filepath.Join(m.o.Dir, "disk", name) }

// File is the path here of a file below /etc or /var of the machine.
func (m *Machine) File(path string) string { return m.disk(path) }

func (m *Machine) log() string { return filepath.Join(m.o.Dir, "machine.log") }

// Boot switches the machine on and waits until systemd has started everything. A unit that
// has failed is an error.
func (m *Machine) Boot(ctx context.Context) error {
	log, err := os.OpenFile(m.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of the machine: %w", err)
	}
	defer log.Close()
	// nsenter and the script replace themselves: the process stays the first one.
	first := exec.Command("nsenter", "--net=/run/netns/"+m.o.Network, "bash", m.disk("machine.sh"), "group", filepath.Join(m.o.Dir, "disk"), group, m.o.Source)
	first.Stdout, first.Stderr = log, log
	first.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	if err := first.Start(); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	m.first, m.ended = first, make(chan error, 1)
	go func() { m.ended <- first.Wait() }()
	return m.booted(ctx)
}

// booted waits for the end of the start.
func (m *Machine) booted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := m.enter(ctx, "systemctl", "is-system-running", "--wait").Output()
		switch state := strings.TrimSpace(string(out)); state {
		case "running":
			return nil
		case "degraded", "maintenance", "stopping":
			failed, _ := m.enter(ctx, "systemctl", "--failed", "--no-legend", "--plain").Output()
			return fmt.Errorf("boot: the machine is %s: %s", state, failed)
		}
		select {
		case err := <-m.ended:
			m.first = nil
			said, _ := os.ReadFile(m.log())
			return fmt.Errorf("boot: the first process has ended: %w: %s", err, said)
		case <-ctx.Done():
			return fmt.Errorf("boot: %w: %w: %s", ctx.Err(), err, out)
		case <-tick.C:
		}
	}
}

// enter makes a command that runs in the machine's namespaces.
func (m *Machine) enter(ctx context.Context, command ...string) *exec.Cmd {
	pid := strconv.Itoa(m.first.Process.Pid)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", pid, "--all", "--"}, command...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LANG=C.UTF-8", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER="}
	return cmd
}

// Run runs a command on the machine to its end, as a service of its systemd, and returns
// its standard output. The error has what it wrote to standard error.
func (m *Machine) Run(ctx context.Context, command ...string) (string, error) {
	if m.first == nil {
		return "", errors.New("the machine is off")
	}
	cmd := m.enter(ctx, append([]string{"systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--working-directory=/root", "--"}, command...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// PowerOff ends the machine in an orderly way. What is below /etc, /usr and /var stays.
func (m *Machine) PowerOff(ctx context.Context) error {
	return m.leave(ctx, "poweroff", syscall.SIGINT)
}

// Shutdown ends the machine as PowerOff does, by a reboot: Boot then is its second half.
// Meanwhile the caller may change what is around the machine.
func (m *Machine) Shutdown(ctx context.Context) error { return m.leave(ctx, "reboot", syscall.SIGHUP) }

// leave waits for the end of the first process by a signal: so the kernel says what a
// process namespace has asked for.
func (m *Machine) leave(ctx context.Context, order string, by syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	if out, err := m.enter(ctx, "systemctl", "--no-block", order).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", order, err, out)
	}
	select {
	case err := <-m.ended:
		m.first = nil
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == by {
			return m.removeGroup()
		}
		return fmt.Errorf("%s: the first process has ended: %w", order, err)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", order, ctx.Err())
	}
}

// Close ends the machine at once. Nothing of it is left but the folder.
func (m *Machine) Close() error {
	if m.first != nil {
		if err := m.first.Process.Kill(); err != nil {
			return fmt.Errorf("end the machine: %w", err)
		}
		var exit *exec.ExitError
		if err := <-m.ended; !errors.As(err, &exit) {
			return fmt.Errorf("end the machine: %w", err)
		}
		m.first = nil
	}
	return m.removeGroup()
}

// Logs copies the end of the journal and of what lies in edged's folder of logs to w, for a
// failed test. The machine may be off.
func (m *Machine) Logs(w io.Writer, lines int) {
	commands := [][]string{{"journalctl", "--directory=" + m.disk("var/log/journal"), "--no-pager", "--output=short-precise", "--lines=" + strconv.Itoa(lines)}}
	modules, _ := filepath.Glob(m.disk("var/lib/aziot/edged/logs/*/*"))
	for _, log := range modules {
		commands = append(commands, []string{"tail", "--lines=" + strconv.Itoa(lines/10), log})
	}
	for _, c := range commands {
		out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
		fmt.Fprintf(w, "\n--- %s: %v\n%s", strings.Join(c, " "), err, out)
	}
}

// removeGroup removes the machine's control groups and what may still run in them.
func (m *Machine) removeGroup() (err error) {
	at := m.disk("cgroup")
	if err := unix.Mount("cgroup2", at, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("a machine with systemd needs control groups of version 2: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(at, 0)) }()
	top := filepath.Join(at, group)
	if err := os.WriteFile(filepath.Join(top, "cgroup.kill"), []byte("1"), 0o644); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("end the machine's processes: %w", err)
	}
	var groups []string
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("control groups of the machine: %w", err)
	}
	// Its processes have been killed, and may need a moment.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return rig.Eventually(ctx, 20*time.Millisecond, "remove the machine's control groups", func() error {
		for _, g := range slices.Backward(groups) { // what is inside first
			if err := os.Remove(g); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}
