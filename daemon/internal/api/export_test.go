package api

import (
	"context"
	"net/http"
	"time"
)

// WorkloadRESTWithin is WorkloadREST with another patience for bodies.
func WorkloadRESTWithin(timeout time.Duration) func(context.Context, Local) (http.Handler, error) {
	return func(ctx context.Context, local Local) (http.Handler, error) {
		return workloadREST(ctx, local, timeout)
	}
}

// ManagementRESTWithin is the same of ManagementREST.
func ManagementRESTWithin(timeout time.Duration) func(context.Context, Local) (http.Handler, error) {
	return func(ctx context.Context, local Local) (http.Handler, error) {
		return managementREST(ctx, local, timeout)
	}
}

// MendHost and Judge are the parts of sniffing that see a client's bytes first.
var (
	MendHost = mendHost
	Judge    = judge
)

// ConnsPerRequest is the bound of connections.
const ConnsPerRequest = connsPerRequest
