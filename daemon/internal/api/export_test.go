package api

import (
	"context"
	"net/http"
	"time"

	"google.golang.org/grpc"
)

// WorkloadRESTWithin is WorkloadREST with another patience for bodies.
func WorkloadRESTWithin(timeout time.Duration) func(context.Context, grpc.ClientConnInterface) (http.Handler, error) {
	return func(ctx context.Context, conn grpc.ClientConnInterface) (http.Handler, error) {
		return workloadREST(ctx, conn, timeout)
	}
}

// MendHost and Judge are the parts of sniffing that see a client's bytes first.
var (
	MendHost = mendHost
	Judge    = judge
)

// ConnsPerRequest is the bound of connections.
const ConnsPerRequest = connsPerRequest
