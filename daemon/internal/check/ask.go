package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/systemd"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// dial connects to the socket of a unix:// URI.
func dial(uri string) (*grpc.ClientConn, error) {
	path, err := config.SocketPath(uri)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), grpc.WithNoProxy())
}

// managementURI is where an operator finds the management API.
func (o DeviceOptions) managementURI(cfg config.Config) string {
	if strings.HasPrefix(cfg.Listen.Management, systemd.Scheme) {
		return o.Host // the unit has the path
	}
	return cfg.Listen.Management
}

// ask makes a call of the System service.
func (o DeviceOptions) ask(cfg config.Config, call func(managementv1.SystemClient) error) (err error) {
	uri := o.managementURI(cfg)
	conn, err := dial(uri)
	if err != nil {
		return fmt.Errorf("%s: %w", uri, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := call(managementv1.NewSystemClient(conn)); err != nil {
		return fmt.Errorf("%s: %s", uri, status.Convert(err).Message())
	}
	return nil
}

func (o DeviceOptions) uptime(ctx context.Context, cfg config.Config) (up time.Duration, err error) {
	err = o.ask(cfg, func(c managementv1.SystemClient) error {
		res, err := c.GetResources(ctx, &managementv1.GetResourcesRequest{})
		up = time.Duration(res.GetProcessUptime() * float64(time.Second))
		return err
	})
	return up, err
}

func (o DeviceOptions) info(ctx context.Context, cfg config.Config) (info Info, err error) {
	err = o.ask(cfg, func(c managementv1.SystemClient) error {
		res, err := c.GetInfo(ctx, &managementv1.GetInfoRequest{})
		info = Info{res.GetVersion(), res.GetDeviceId(), res.GetIothubHostname()}
		return err
	})
	return info, err
}

// workload asks at the shared socket, at which processes of the host may ask for the
// trust bundle and nothing else.
func workload(ctx context.Context, cfg config.Config) (err error) {
	uri := cfg.Listen.Workload
	if strings.HasPrefix(uri, systemd.Scheme) {
		uri = cfg.Connect.Workload // the same path, with the units as they are shipped
	}
	conn, err := dial(uri)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	_, err = workloadv1.NewWorkloadClient(conn).GetTrustBundle(ctx, &workloadv1.GetTrustBundleRequest{})
	if err != nil {
		return errors.New(status.Convert(err).Message())
	}
	return nil
}

// talkToTPM has the identity key sign, if it is there, so it fails if the device was not
// provisioned with this TPM.
func talkToTPM(_ context.Context, cfg config.Config) error {
	t, err := cfg.TPM.Chip()
	if err != nil {
		return err
	}
	if cfg.Identity.Method != config.TPMKey {
		return t.Answers()
	}
	// Nothing is made or changed by it, and the text is no token for anything.
	_, err = t.Sign([]byte("edgectl check"))
	return err
}

// serviceEnv reads the environment of the unit's main process.
func serviceEnv(ctx context.Context) (map[string]string, error) {
	if st, err := os.Lstat("/run/systemd/system"); err != nil || !st.IsDir() {
		return nil, ErrNoService
	}
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=MainPID", "--value", "aziot-edged.service").Output()
	pid := strings.TrimSpace(string(out))
	if err != nil || pid == "" || pid == "0" {
		return nil, ErrNoService
	}
	text, err := os.ReadFile("/proc/" + pid + "/environ")
	if err != nil {
		return nil, err
	}
	return environ(text), nil
}

// environ reads the form of /proc/<pid>/environ.
func environ(text []byte) map[string]string {
	env := map[string]string{}
	for pair := range bytes.SplitSeq(text, []byte{0}) {
		if name, value, ok := strings.Cut(string(pair), "="); ok {
			env[name] = value
		}
	}
	return env
}
