package agent

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/breakwater-iot/breakwater/agent/internal/quality"
	"github.com/breakwater-iot/breakwater/agent/internal/settings"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Sender is a Cloud that sends telemetry.
type Sender interface {
	Send(ctx context.Context, m *iothub.Message) error
}

// sendQuality collects and sends quality telemetry until ctx ends. Where nothing may
// be kept on disk it is kept in a folder that goes with the container.
func sendQuality(ctx context.Context, s settings.Settings, cloud Sender, log *slog.Logger) {
	_, port, err := net.SplitHostPort(s.Metrics.Address)
	if err != nil {
		log.Error("quality telemetry is off", "error", err)
		return
	}
	folder := s.StorageFolder
	if s.Volatile {
		folder = os.TempDir()
	}
	transport := &http.Transport{DisableKeepAlives: true}
	quality.Run(ctx, quality.Options{
		Scrape: s.Quality.Scrape, Upload: s.Quality.Upload, MaxAge: s.Quality.MaxAge,
		Targets: []string{"http://edgeHub:9600/metrics", "http://" + net.JoinHostPort("localhost", port) + s.Metrics.Path},
		Client:  &http.Client{Transport: transport},
		Store:   quality.Open(folder), Send: cloud.Send, Log: log,
	})
}
