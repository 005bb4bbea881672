package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	readTimeout     = 10 * time.Second
	shutdownTimeout = 2 * time.Second
)

// Handler serves the metrics as text.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Serve listens until ctx ends. An agent whose metrics cannot be served does its
// work all the same: the error is logged.
func (m *Metrics) Serve(ctx context.Context, address, path string, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET "+path, m.Handler())
	server := &http.Server{Addr: address, Handler: mux, ReadTimeout: readTimeout}
	var closing sync.WaitGroup
	ended := make(chan struct{})
	closing.Go(func() {
		select {
		case <-ctx.Done():
		case <-ended:
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			log.Warn("metrics", "error", err)
		}
	})
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Error("metrics are not served", "address", address, "error", err)
	}
	close(ended)
	closing.Wait()
}
