package containerd

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pull is what watches a pull.
type Pull = pull

func NewPull(image string, log *slog.Logger, stall time.Duration, offset func(context.Context, string) int64) *Pull {
	return &pull{image: image, log: log, stall: stall, offset: offset}
}

func (p *pull) Watch(ctx context.Context) context.Context { return p.watch(ctx) }

func (p *pull) Close() { p.close() }

func (p *pull) Cause(ctx context.Context, err error) error { return p.cause(ctx, err) }

func (p *pull) Succeeded(ctx context.Context) { p.succeeded(ctx) }

func (p *pull) Expect(parts ...ocispec.Descriptor) { p.expect(parts) }

func (p *pull) Begin(ref string, d ocispec.Descriptor) bool { return p.begin(ref, d) }

func (p *pull) End(ref string, d ocispec.Descriptor, complete bool) { p.end(ref, d, complete) }

func (p *pull) Metered(t http.RoundTripper) http.RoundTripper { return metered{t, p} }

// Where images fit, and how a full disk is told.
var (
	Fits       = fits
	OutOfSpace = outOfSpace
)
