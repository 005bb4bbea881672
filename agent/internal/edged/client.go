package edged

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// ErrGone is the reason for which the agent ends when the daemon's socket refuses
// connections.
var ErrGone = errors.New("the daemon's socket refuses connections")

// Options of a client.
type Options struct {
	ManagementURI string // unix://...
	WorkloadURI   string // unix://...
	ModuleID      string // of the agent, for encryption
	Generation    string
	Timeout       time.Duration // of one call (ManagementApiTimeoutSecs)
	// SlotTimeout is how long a call waits while concurrency calls are under way;
	// negative: as long as its context allows (ModuleRequestThrottleTimeout).
	SlotTimeout time.Duration
}

const (
	concurrency     = 5
	workloadTimeout = 5 * time.Minute
	retries         = 3
)

// Client is a connection to the daemon. It may be used by several goroutines.
type Client struct {
	opts       Options
	management *grpc.ClientConn
	workload   *grpc.ClientConn
	slots      chan struct{}
	gone       chan struct{}
	goneOnce   sync.Once

	modules    managementv1.ModulesClient
	identities managementv1.IdentitiesClient
	system     managementv1.SystemClient
	work       workloadv1.WorkloadClient
}

// Dial makes a client; connections are made when they are needed. Close it.
func Dial(opts Options) (*Client, error) {
	c := &Client{opts: opts, slots: make(chan struct{}, concurrency), gone: make(chan struct{})}
	var err error
	if c.management, err = c.dial(opts.ManagementURI, c.managementCall); err != nil {
		return nil, fmt.Errorf("management API: %w", err)
	}
	if c.workload, err = c.dial(opts.WorkloadURI, c.retryUnavailable(time.Second, workloadTimeout)); err != nil {
		return nil, errors.Join(fmt.Errorf("workload API: %w", err), c.management.Close())
	}
	c.modules = managementv1.NewModulesClient(c.management)
	c.identities = managementv1.NewIdentitiesClient(c.management)
	c.system = managementv1.NewSystemClient(c.management)
	c.work = workloadv1.NewWorkloadClient(c.workload)
	return c, nil
}

// Close ends both connections.
func (c *Client) Close() error { return errors.Join(c.management.Close(), c.workload.Close()) }

// Gone is closed when a socket refused a connection.
func (c *Client) Gone() <-chan struct{} { return c.gone }

func (c *Client) isGone() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

func (c *Client) dial(uri string, call grpc.UnaryClientInterceptor) (*grpc.ClientConn, error) {
	path, ok := strings.CutPrefix(uri, "unix://")
	if !ok || path == "" {
		return nil, fmt.Errorf("address %q is not unix://<path>", uri)
	}
	return grpc.NewClient("passthrough:///edged",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
			if errors.Is(err, syscall.ECONNREFUSED) {
				c.goneOnce.Do(func() { close(c.gone) })
			}
			return conn, err
		}),
		grpc.WithUnaryInterceptor(call),
	)
}

// managementCall bounds the number of calls under way and the time of each, and
// retries reads: writes are retried by the loop, which looks at the state first.
func (c *Client) managementCall(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := c.slot(ctx); err != nil {
		return err
	}
	defer func() { <-c.slots }()
	name := method[strings.LastIndexByte(method, '/')+1:]
	if name != "List" && !strings.HasPrefix(name, "Get") {
		ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
		defer cancel()
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	return c.retryUnavailable(2*time.Second, c.opts.Timeout)(ctx, method, req, reply, cc, invoke, opts...)
}

func (c *Client) slot(ctx context.Context) error {
	if c.opts.SlotTimeout >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.SlotTimeout)
		defer cancel()
	}
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a turn at the daemon: %w", ctx.Err())
	}
}

// retryUnavailable repeats a call that the daemon could not answer, with growing
// pauses. Answers of the daemon, good or bad, are final.
func (c *Client) retryUnavailable(pause, timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		wait := pause
		for attempt := 1; ; attempt++ {
			callCtx, cancel := context.WithTimeout(ctx, timeout)
			err := invoke(callCtx, method, req, reply, cc, opts...)
			cancel()
			if status.Code(err) != codes.Unavailable || attempt > retries || c.isGone() {
				return err
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
				wait *= 2
			case <-ctx.Done():
				timer.Stop()
				return err
			}
		}
	}
}

// callError names the call and keeps the daemon's own words.
func callError(what string, err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return &Error{Call: what, Code: s.Code(), Message: s.Message()}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Error is an answer of the daemon that is none.
type Error struct {
	Call    string
	Code    codes.Code
	Message string
}

// Error gives the call and the daemon's message.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Call, e.Message) }

// Is tells the kinds of answers apart. That of an agent that was taken back is the daemon's
// only use of its code.
func (e *Error) Is(target error) bool {
	return target == launch.ErrTakenBack && e.Code == codes.Aborted || target == launch.ErrNotFound && e.Code == codes.NotFound
}
