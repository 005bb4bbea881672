// Package hostinfo tells what machine the daemon runs on and how busy it is, as
// far as the kernel's files say. What is not there is left empty.
package hostinfo

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Host reads the files below Root, which is "/" except in tests.
type Host struct{ Root string }

func (h Host) read(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(h.Root, path))
}

// Product returns the vendor and the name of the machine.
func (h Host) Product() (vendor, name string) {
	return h.line("/sys/class/dmi/id/sys_vendor"), h.line("/sys/class/dmi/id/product_name")
}

func (h Host) line(path string) string {
	text, err := h.read(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// Virtualized is "yes" or "no", by the flag that hypervisors set, and "unknown" on
// processors without flags.
func (h Host) Virtualized() string {
	text, err := h.read("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			if flag == "hypervisor" {
				return "yes"
			}
		}
		return "no"
	}
	return "unknown"
}

// Release returns the pairs of os-release, such as ID and VERSION_ID.
func (h Host) Release() map[string]string {
	out := map[string]string{}
	text, err := h.read("/etc/os-release")
	if err != nil {
		return out
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		key, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		if ok && !strings.HasPrefix(key, "#") {
			out[key] = strings.Trim(value, `"'`)
		}
	}
	return out
}

// Uptime returns the seconds since the machine started.
func (h Host) Uptime() (float64, error) {
	text, err := h.read("/proc/uptime")
	if err != nil {
		return 0, fmt.Errorf("uptime: %w", err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	up, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, errors.New("uptime: not a number")
	}
	return up, nil
}

// ticksPerSecond is USER_HZ, the same on all processors that Go runs on.
const ticksPerSecond = 100

// CPU is the processor time of the machine so far, in nanoseconds over all
// processors.
type CPU struct{ Total, Idle uint64 }

// CPU reads the counters.
func (h Host) CPU() (CPU, error) {
	text, err := h.read("/proc/stat")
	if err != nil {
		return CPU{}, fmt.Errorf("processor time: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(first)
	if len(fields) < 5 || fields[0] != "cpu" {
		return CPU{}, errors.New("processor time: unknown form")
	}
	var c CPU
	// user nice system idle iowait irq softirq steal; guest time is in user already.
	for i, f := range fields[1:min(len(fields), 9)] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return CPU{}, errors.New("processor time: not a number")
		}
		n *= 1e9 / ticksPerSecond
		c.Total += n
		if i == 3 || i == 4 {
			c.Idle += n
		}
	}
	return c, nil
}

// Used returns the percentage that was not idle since an earlier reading.
func (c CPU) Used(before CPU) float64 {
	if c.Total <= before.Total || c.Idle < before.Idle {
		return 0
	}
	idle := float64(c.Idle-before.Idle) / float64(c.Total-before.Total)
	return 100 * min(max(1-idle, 0), 1)
}

// Memory returns bytes; used is what programs could not get.
func (h Host) Memory() (used, total float64, err error) {
	text, err := h.read("/proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("memory: %w", err)
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if n, err := strconv.ParseUint(number, 10, 53); err == nil {
			values[name] = float64(n) * 1024
		}
	}
	total, ok := values["MemTotal"]
	free, alsoOK := values["MemAvailable"]
	if !ok || !alsoOK {
		return 0, 0, errors.New("memory: unknown form")
	}
	return total - min(free, total), total, nil
}

// exists tells whether a path below Root exists.
func (h Host) exists(path string) bool {
	_, err := os.Stat(filepath.Join(h.Root, path))
	return !errors.Is(err, fs.ErrNotExist)
}
