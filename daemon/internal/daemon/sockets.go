package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/api"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/systemd"
)

// listen opens the shared sockets of both APIs, or takes over those of the service
// manager.
func (d *daemon) listen() (err error) {
	l := d.Config.Listen
	if d.workloadPath, err = d.listenOne(d.workload, l.Workload, 0o666, -1); err != nil {
		return fmt.Errorf("workload socket: %w", err)
	}
	if d.managementPath, err = d.listenOne(d.management, l.Management, 0o660, d.AdminGroup); err != nil {
		return fmt.Errorf("management socket: %w", err)
	}
	return nil
}

// listenOne returns the path of the socket.
func (d *daemon) listenOne(server *api.Server, uri string, mode fs.FileMode, group int) (string, error) {
	inherited := d.Inherited
	if inherited == nil {
		inherited = &systemd.Sockets{}
	}
	socket, ok, err := inherited.Take(uri, systemd.Want{Mode: mode, Group: group})
	if err != nil {
		return "", err
	}
	if ok {
		_, err := server.Adopt(socket.UnixListener, api.Endpoint{Path: socket.Path, Group: -1})
		return socket.Path, err
	}
	path, err := config.SocketPath(uri)
	if err != nil {
		return "", err
	}
	_, err = server.Listen(api.Endpoint{Path: path, Mode: mode, Group: group})
	return path, err
}

// noSockets are those of modules while none is served.
type noSockets struct{}

func (noSockets) Open(string) error   { return nil }
func (noSockets) Close(string)        {}
func (noSockets) Remove(string) error { return nil }

// alive makes a call through each shared socket, from its accepting to its gate.
// It asks nothing of the engine or the cloud, which no restart of the daemon would
// bring back.
func (d *daemon) alive(ctx context.Context) error {
	for _, path := range []string{d.workloadPath, d.managementPath} {
		if err := ping(ctx, path); err != nil {
			return fmt.Errorf("socket %s: %w", path, err)
		}
	}
	return nil
}

func ping(ctx context.Context, path string) (err error) {
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}
