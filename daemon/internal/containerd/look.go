package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Seen is what Look has found.
type Seen struct {
	Version string
	// Running are the first processes of running containers in the namespace.
	Running map[string]int
}

// Look asks containerd beside the daemon, without changing or taking over anything.
func Look(ctx context.Context, address, namespace string) (seen Seen, err error) {
	c, err := client.New(address, client.WithDefaultNamespace(namespace))
	if err != nil {
		return Seen{}, fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	ctx = namespaces.WithNamespace(ctx, namespace)
	v, err := c.Version(ctx)
	if err != nil {
		return Seen{}, translate(err)
	}
	reply, err := c.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return Seen{}, translate(fromGRPC(err))
	}
	seen = Seen{Version: v.Version, Running: map[string]int{}}
	for _, p := range reply.GetTasks() {
		if p.GetStatus() == task.Status_RUNNING {
			seen.Running[p.GetID()] = int(p.GetPid())
		}
	}
	return seen, nil
}
