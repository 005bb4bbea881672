package api

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Local reaches the services of a server in its own process. Calls run the
// server's handler, with the gate that a network call would meet, in the caller's
// goroutine and context.
type Local interface {
	grpc.ClientConnInterface
	// Stream makes a call that is answered with a stream; each gets the answers.
	// accepted is called before the first one, when the handler says so.
	Stream(ctx context.Context, method string, request proto.Message, accepted func(), each func(proto.Message) error) error
}

// inProcess implements Local.
type inProcess struct {
	gate    *gate
	methods map[string]method
	streams map[string]streamMethod
}

type method struct {
	impl    any
	handler grpc.MethodHandler
}

type streamMethod struct {
	impl    any
	handler grpc.StreamHandler
}

func newInProcess(gate *gate) *inProcess {
	return &inProcess{gate: gate, methods: map[string]method{}, streams: map[string]streamMethod{}}
}

// RegisterService implements grpc.ServiceRegistrar.
func (p *inProcess) RegisterService(d *grpc.ServiceDesc, impl any) {
	for _, m := range d.Methods {
		p.methods["/"+d.ServiceName+"/"+m.MethodName] = method{impl: impl, handler: m.Handler}
	}
	for _, m := range d.Streams {
		if !m.ClientStreams {
			p.streams["/"+d.ServiceName+"/"+m.StreamName] = streamMethod{impl: impl, handler: m.Handler}
		}
	}
}

// Invoke implements grpc.ClientConnInterface. Call options are ignored.
func (p *inProcess) Invoke(ctx context.Context, name string, in, out any, _ ...grpc.CallOption) error {
	m, ok := p.methods[name]
	if !ok {
		return status.Error(codes.Unimplemented, "no such method")
	}
	decode := func(v any) error { return copyMessage(v, in) }
	res, err := m.handler(m.impl, ctx, decode, p.gate.unary)
	if err != nil {
		return err
	}
	return copyMessage(out, res)
}

// NewStream implements grpc.ClientConnInterface; see Stream instead.
func (p *inProcess) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "streams need gRPC")
}

// Stream implements Local.
func (p *inProcess) Stream(ctx context.Context, name string, request proto.Message, accepted func(), each func(proto.Message) error) error {
	m, ok := p.streams[name]
	if !ok {
		return status.Error(codes.Unimplemented, "no such method")
	}
	s := &localStream{ctx: ctx, request: request, accepted: accepted, each: each}
	return p.gate.stream(m.impl, s, &grpc.StreamServerInfo{FullMethod: name, IsServerStream: true}, m.handler)
}

// localStream is the server's side of Stream.
type localStream struct {
	ctx      context.Context //nolint:containedctx // the way grpc hands it over
	request  proto.Message   // nil once it was received
	accepted func()          // nil once it was called
	each     func(proto.Message) error
}

func (s *localStream) Context() context.Context  { return s.ctx }
func (*localStream) SetHeader(metadata.MD) error { return nil }
func (*localStream) SetTrailer(metadata.MD)      {}

func (s *localStream) SendHeader(metadata.MD) error {
	if s.accepted != nil {
		s.accepted()
		s.accepted = nil
	}
	return nil
}

func (s *localStream) SendMsg(m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return status.Error(codes.Internal, fmt.Sprintf("%T is not a message", m))
	}
	if err := s.SendHeader(nil); err != nil {
		return err
	}
	return s.each(msg)
}

func (s *localStream) RecvMsg(m any) error {
	if s.request == nil {
		return io.EOF
	}
	request := s.request
	s.request = nil
	return copyMessage(m, request)
}

func copyMessage(to, from any) error {
	dst, ok := to.(proto.Message)
	src, alsoOK := from.(proto.Message)
	if !ok || !alsoOK {
		return status.Error(codes.Internal, fmt.Sprintf("%T is not a message", from))
	}
	proto.Merge(dst, src)
	return nil
}
