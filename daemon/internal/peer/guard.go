package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Rule says who may call a method. The zero value lets nobody in.
type Rule int

const (
	// Nobody may call.
	Nobody Rule = iota
	// Anybody who could open the socket may call.
	Anybody
	// Self lets in the module that the request names.
	Self
	// Agent lets in edgeAgent.
	Agent
	// AgentOrAdmin lets in edgeAgent, or a host process of root or the operators' group.
	AgentOrAdmin
)

// AgentModule is the container name of the agent.
const AgentModule = "edgeAgent"

// Policy maps full method names ("/package.Service/Method") to rules. A method
// that is not in it is Nobody's.
type Policy map[string]Rule

// Resolver tells which module a process belongs to; see runtime.Observer.
type Resolver interface {
	ModuleOfPid(ctx context.Context, pid int) (runtime.Process, error)
}

// Guard decides who may call what. It is safe for concurrent use.
type Guard struct {
	Policy   Policy
	Resolver Resolver
	// AdminGroup is the group id whose members are operators besides root; -1 for
	// none.
	AdminGroup int
	// Allowed is told of each caller that was let in: its module, "" for a process of
	// the host or where it does not matter. May be nil; must not wait.
	Allowed func(module string)
	// Log gets one line per decision. Never nil.
	Log *slog.Logger
}

// errForbidden is all that a refused caller learns.
var errForbidden = status.Error(codes.PermissionDenied, "forbidden")

// Check decides whether the caller of ctx may call method with req, which may be
// nil for streams. It returns nil or a gRPC status PermissionDenied.
//
// A module that a process belongs to is looked up at every call: while the
// process lives it cannot change its container, but a container may end and its
// pids be reused, which the caller's process handle then shows.
func (g *Guard) Check(ctx context.Context, method string, req any) error {
	caller, ok := FromContext(ctx)
	if !ok {
		g.Log.WarnContext(ctx, "api call refused", "method", method, "reason", "unknown peer")
		return errForbidden
	}
	module, reason := g.decide(ctx, caller, g.Policy[method], req)
	log := g.Log.With("method", method, "pid", caller.Pid, "uid", caller.UID, "module", module, "socket", caller.Socket)
	if reason != nil {
		log.WarnContext(ctx, "api call refused", "reason", reason)
		return errForbidden
	}
	level := slog.LevelInfo
	if rule := g.Policy[method]; rule == Anybody || rule == AgentOrAdmin {
		level = slog.LevelDebug // reads, asked for every few seconds
	}
	log.Log(ctx, level, "api call allowed")
	if g.Allowed != nil {
		g.Allowed(module)
	}
	return nil
}

// decide returns the caller's module, "" for a host process or when it does not
// matter, and why it is refused.
func (g *Guard) decide(ctx context.Context, c *Caller, rule Rule, req any) (string, error) {
	switch rule {
	case Anybody:
		return "", nil
	case Self, Agent, AgentOrAdmin:
	default:
		return "", errors.New("no rule for this method")
	}
	module, err := g.moduleOf(ctx, c)
	if err != nil {
		return "", err
	}
	if c.Socket != "" && c.Socket != module {
		return module, errors.New("socket belongs to another module")
	}
	switch {
	case rule == Self:
		return module, self(module, req)
	case module == AgentModule:
		return module, nil
	case module != "":
		return module, errors.New("not the agent")
	case rule == AgentOrAdmin && g.admin(c):
		return "", nil
	}
	return "", errors.New("neither the agent nor an operator")
}

// moduleOf resolves a process; "" is a process of no module. Any doubt is an error.
func (g *Guard) moduleOf(ctx context.Context, c *Caller) (string, error) {
	p, err := g.Resolver.ModuleOfPid(ctx, c.Pid)
	if aliveErr := c.Alive(); aliveErr != nil {
		return "", aliveErr // the answer may be about another process
	}
	if errors.Is(err, runtime.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("resolve peer: %w", err)
	}
	if p.Module == "" {
		return "", errors.New("resolve peer: module without a name")
	}
	return p.Module, nil
}

// Subject names whom the requests of a caller count for: the module that its
// process belongs to or, for a process of the host, its user id. The module is
// remembered with the caller, because a process cannot leave its container; this
// is for counting only, Check looks it up anew.
func (g *Guard) Subject(ctx context.Context, c *Caller) string {
	if c.handle != nil {
		if m := c.handle.module.Load(); m != nil {
			return "module " + *m
		}
	}
	module, err := g.moduleOf(ctx, c)
	if err != nil || module == "" {
		return fmt.Sprintf("uid %d", c.UID)
	}
	c.handle.module.Store(&module)
	return "module " + module
}

// self compares the module that a request names with the caller's.
func self(module string, req any) error {
	named, ok := req.(interface{ GetModuleId() string })
	switch {
	case module == "":
		return errors.New("not a module")
	case !ok:
		return errors.New("request names no module")
	case strings.TrimPrefix(named.GetModuleId(), "$") != module:
		return errors.New("request names another module")
	}
	return nil
}

// admin tells whether a host process acts for an operator.
func (g *Guard) admin(c *Caller) bool {
	return c.UID == 0 ||
		g.AdminGroup >= 0 && (c.GID == g.AdminGroup || slices.Contains(c.Groups, g.AdminGroup))
}
