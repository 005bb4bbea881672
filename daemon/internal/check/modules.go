package check

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
)

func moduleNameservers() ([]netip.Addr, error) {
	text, err := network.ModuleResolv()
	if err != nil {
		return nil, err
	}
	return nameservers(text), nil
}

// logSizes adds up the files of each module's log.
func logSizes(cfg config.Config) (map[string]int64, error) {
	root := filepath.Join(cfg.HomeDir, "logs")
	sizes := map[string]int64{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // turned over meanwhile, or nothing was logged yet
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		module, _, _ := strings.Cut(rel, string(filepath.Separator))
		sizes[module] += info.Size()
		return nil
	})
	return sizes, err
}

// moduleStorage looks at the module's process: where its environment says that data
// lie, and what is mounted there.
func moduleStorage(ctx context.Context, cfg config.Config, module string) (string, bool, error) {
	seen, err := look(ctx, cfg)
	if err != nil {
		return "", false, fmt.Errorf("%w: containerd: %w", ErrNoModule, err)
	}
	pid, ok := seen.Running[module]
	if !ok {
		return "", false, ErrNoModule
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrNoModule, err)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrNoModule, err)
	}
	folder := storageFolder(environ(environment))
	return folder, onHostMount(mounts, folder), nil
}

// storageFolder is where edgeAgent and edgeHub keep their data.
func storageFolder(env map[string]string) string {
	return path.Clean(cmp.Or(env["StorageFolder"], env["storageFolder"], "/tmp"))
}

// onHostMount tells by the text of a mountinfo file (proc(5)) whether a folder lies on
// a mount besides the root, and not in memory.
func onHostMount(mountinfo []byte, folder string) bool {
	best, kind := "", ""
	for lines := bufio.NewScanner(bytes.NewReader(mountinfo)); lines.Scan(); {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields, after := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(after) == 0 {
			continue
		}
		at := unescape(fields[4])
		if (at == folder || at == "/" || strings.HasPrefix(folder, at+"/")) && len(at) >= len(best) {
			best, kind = at, after[0]
		}
	}
	return best != "" && best != "/" && kind != "tmpfs"
}

// unescape turns the octal escapes of spaces and the like into what they stand for.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// look asks containerd. Its client waits long for a socket at which nobody listens.
func look(ctx context.Context, cfg config.Config) (containerd.Seen, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", cfg.Containerd.Address)
	if err != nil {
		return containerd.Seen{}, err
	}
	if err := conn.Close(); err != nil {
		return containerd.Seen{}, err
	}
	return containerd.Look(ctx, cfg.Containerd.Address, cfg.Containerd.Namespace)
}
