package rig

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

const (
	deviceToLeaf6 = "fd90:2::1"
	leafAddr6     = "fd90:2::2"
)

// LeafOverIPv6 leaves the leaf nothing but IPv6 to reach the device. The device's module
// network must have it (DeviceConfig).
func LeafOverIPv6(ctx context.Context) error {
	for _, step := range [][]string{
		{"-n", string(Device), "addr", "add", deviceToLeaf6 + "/64", "dev", "leaf", "nodad"},
		{"-n", string(Leaf), "addr", "add", leafAddr6 + "/64", "dev", "device", "nodad"},
		{"-n", string(Leaf), "addr", "del", leafAddr + "/30", "dev", "device"},
	} {
		if _, err := run(ctx, "ip", step...); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", deviceToLeaf6, DeviceName)
	if err := os.WriteFile(filepath.Join(netnsHostsFolder, string(Leaf), "hosts"), []byte(text), 0o644); err != nil {
		return fmt.Errorf("hosts file of %s: %w", Leaf, err)
	}
	return nil
}
