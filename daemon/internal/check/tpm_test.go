//go:build device

package check_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm/tpmtest"
)

func TestKeysInTheTPMAreLookedAt(t *testing.T) {
	tcti := tpmtest.Start(t)
	tpmtest.PutRSA(t, tcti, 0x81000200)
	tpmtest.PutHMAC(t, tcti, 0x81000201, []byte("the device's key"))
	for _, c := range []struct{ name, device, ca, want string }{
		{"there", "0x81000201", "0x81000200", ""},
		{"no private key", "0x81000201", "0x81000300", "tpm:handle=0x81000300: there is no key"},
		{"no device key", "0x81000301", "0x81000200", "key of the device: tpm:handle=0x81000301: there is no key"},
	} {
		cfg, err := config.Parse([]byte(fmt.Sprintf(`[provisioning]
source = "manual"
iothub_hostname = "hub.example.net"
device_id = "edge1"
authentication = { method = "sas", device_id_pk = { uri = "tpm:handle=%s" } }
[edge_ca]
cert = "file:///etc/aziot/edge-ca.pem"
pk = "tpm:handle=%s"
[tpm]
tcti = %q`, c.device, c.ca, tcti)), "gw")
		if err != nil {
			t.Fatal(err)
		}
		p := check.Device(check.DeviceOptions{})
		if err := p.TPM(t.Context(), cfg); err != nil {
			t.Errorf("%s: TPM: %v", c.name, err)
		}
		if err := p.KeyFiles(t.Context(), cfg); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
