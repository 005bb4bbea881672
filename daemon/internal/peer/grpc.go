package peer

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
)

// FromContext returns the caller of a gRPC call, or of a request whose context
// was made by NewContext.
func FromContext(ctx context.Context) (*Caller, bool) {
	if c, ok := ctx.Value(callerKey{}).(*Caller); ok {
		return c, true
	}
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	info, ok := p.AuthInfo.(authInfo)
	return info.caller, ok
}

type authInfo struct{ caller *Caller }

func (authInfo) AuthType() string { return "unix-peer" }

// Known is a connection that tells its caller: a Conn, or what wraps one.
type Known interface {
	net.Conn
	Caller() *Caller
}

// Credentials are gRPC server credentials without cryptography: they hand the
// caller of a Known connection to FromContext, and refuse other connections.
func Credentials() credentials.TransportCredentials { return transport{} }

type transport struct{}

func (transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	known, ok := conn.(Known)
	if !ok {
		return nil, nil, errors.New("connection without peer credentials")
	}
	return conn, authInfo{caller: known.Caller()}, nil
}

func (transport) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for servers only")
}

func (transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

func (t transport) Clone() credentials.TransportCredentials { return t }

func (transport) OverrideServerName(string) error { return nil }
