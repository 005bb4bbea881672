package quality

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// ContentType marks the messages.
const ContentType = "application/x-azureiot-edgeruntimediagnostics"

// Options of a collector. All are needed.
type Options struct {
	Scrape  time.Duration // MetricScrapeInterval
	Upload  time.Duration // MetricUploadInterval
	MaxAge  time.Duration // MetricMaxUploadAge
	Targets []string      // addresses to scrape
	Client  *http.Client
	Store   *Store
	Send    func(ctx context.Context, m *iothub.Message) error
	Log     *slog.Logger
}

const (
	sendTries  = 20
	firstPause = 5 * time.Minute
	lastPause  = 12 * time.Hour
	// maxScrape is how much of an answer is read, in bytes.
	maxScrape   = 4 << 20
	sendTimeout = time.Minute
)

// Run collects and sends until ctx ends. What goes wrong is logged. The first upload
// comes after a random part of its interval, so that devices that are started
// together do not send together.
func Run(ctx context.Context, o Options) {
	scrape := time.NewTicker(o.Scrape)
	defer scrape.Stop()
	upload := time.NewTimer(rand.N(o.Upload))
	defer upload.Stop()
	tries := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-scrape.C:
			o.scrape(ctx)
		case <-upload.C:
			err := o.upload(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				tries = 0
				upload.Reset(o.Upload)
				continue
			}
			tries++
			o.Log.Warn("quality telemetry not sent", "error", err, "tries", tries)
			if tries == sendTries {
				o.clear()
				tries = 0
				upload.Reset(o.Upload)
				continue
			}
			upload.Reset(pause(tries))
		}
	}
}

// pause doubles from firstPause to lastPause.
func pause(tries int) time.Duration {
	d := firstPause
	for range tries - 1 {
		if d *= 2; d >= lastPause {
			return lastPause
		}
	}
	return d
}

func (o Options) scrape(ctx context.Context) {
	s := Scrape{At: time.Now().UTC().Round(0)}
	for _, target := range o.Targets {
		text, err := o.get(ctx, target)
		if err == nil {
			var samples []Sample
			if samples, err = Parse(text); err == nil {
				s.Values = append(s.Values, Select(samples)...)
				continue
			}
		}
		if ctx.Err() == nil {
			o.Log.Warn("metrics not read for quality telemetry", "target", target, "error", err)
		}
	}
	if len(s.Values) == 0 {
		return
	}
	if err := o.Store.Add(s); err != nil {
		o.Log.Warn("scrape not kept", "error", err)
	}
}

func (o Options) get(ctx context.Context, target string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	res, err := o.Client.Do(req)
	if err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxScrape+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("answer: %w", err)
	case res.StatusCode != http.StatusOK:
		return "", fmt.Errorf("answer: status %d", res.StatusCode)
	case len(b) > maxScrape:
		return "", errors.New("answer: too long")
	}
	return string(b), nil
}

// upload sends all that is kept and not too old, and forgets it.
func (o Options) upload(ctx context.Context) error {
	list, err := o.Store.All(time.Now().Add(-o.MaxAge))
	if err != nil {
		o.Log.Error("what was kept is unreadable and dropped", "error", err)
		o.clear()
		return nil
	}
	for _, body := range Encode(Condense(list)) {
		m := &iothub.Message{Body: body}
		m.System.Set(iothub.ContentType, ContentType)
		ctx, cancel := context.WithTimeout(ctx, sendTimeout)
		err := o.Send(ctx, m)
		cancel()
		if err != nil {
			return err
		}
	}
	o.clear()
	return nil
}

func (o Options) clear() {
	if err := o.Store.Clear(); err != nil {
		o.Log.Error("what was kept is not removed", "error", err)
	}
}
