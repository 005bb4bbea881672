package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

type messageSend struct {
	remote
	Device        string            `arg:"" help:"Device id."`
	Body          string            `required:"" help:"Body: text, @FILE, or - for the standard input."`
	Property      map[string]string `help:"Application property NAME=VALUE; may be repeated." mapsep:"none"`
	MessageID     string            `name:"id" help:"Message id, for feedback."`
	CorrelationID string            `name:"correlation-id" help:"Correlation id."`
	ContentType   string            `help:"Content type of the body."`
	Ack           string            `enum:"none,positive,negative,full" default:"none" help:"Feedback to ask for: ${enum}."`
	TTL           time.Duration     `name:"ttl" help:"How long the message waits for the device (the hub's default, 1h, if not given)."`
}

// Run sends the message.
func (m *messageSend) Run(ctx context.Context, env environment) error {
	body, err := argument(env, m.Body)
	if err != nil {
		return fmt.Errorf("--body: %w", err)
	}
	if m.TTL < 0 {
		return usageError{fmt.Errorf("--ttl %s is in the past", m.TTL)}
	}
	message := &iothub.Message{Body: body}
	for name, value := range map[string]string{iothub.MessageID: m.MessageID, iothub.CorrelationID: m.CorrelationID,
		iothub.ContentType: m.ContentType} {
		if value != "" {
			message.System.Set(name, value)
		}
	}
	if m.Ack != "none" {
		message.System.Set(iothub.Ack, m.Ack)
	}
	if m.TTL > 0 {
		message.System.Set(iothub.AbsoluteExpiryTime, rest.Expiry(time.Now().Add(m.TTL)))
	}
	names := make([]string, 0, len(m.Property))
	for name := range m.Property {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		message.Properties.Set(name, m.Property[name])
	}
	return m.use(func(c *rest.Client, _ connstr.String) error {
		return asked(c.SendMessage(ctx, iothub.DeviceIdentity(m.Device), message))
	})
}

type messageFeedback struct {
	remote
	Follow bool `help:"Go on until interrupted."`
	Keep   bool `help:"Leave the feedback in the hub: it comes again after a minute."`
}

// feedbackPause is how often the hub is asked for more.
const feedbackPause = time.Second

// Run prints what feedback there is, one record a line, and removes it.
func (m *messageFeedback) Run(ctx context.Context, env environment) error {
	return m.use(func(c *rest.Client, _ connstr.String) error {
		for {
			batch, err := c.ReceiveFeedback(ctx)
			switch {
			case ctx.Err() != nil:
				return nil //nolint:nilerr // the user ended it
			case err != nil:
				return asked(err)
			case batch.LockToken == "" && !m.Follow:
				return nil
			case batch.LockToken == "":
				timer := time.NewTimer(feedbackPause)
				select {
				case <-timer.C:
				case <-ctx.Done():
					timer.Stop()
					return nil
				}
				continue
			}
			if err := printFeedback(env.out, batch.Records); err != nil {
				return err
			}
			if m.Keep {
				continue
			}
			if err := c.CompleteFeedback(ctx, batch.LockToken); err != nil {
				return asked(err)
			}
		}
	})
}

func printFeedback(w io.Writer, records []rest.FeedbackRecord) error {
	for _, r := range records {
		raw, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		if _, err := fmt.Fprintf(w, "%s\n", raw); err != nil {
			return err
		}
	}
	return nil
}

type messagePurge struct {
	remote
	Device string `arg:"" help:"Device id."`
}

// Run removes all messages that wait for the device and prints how many.
func (m *messagePurge) Run(ctx context.Context, env environment) error {
	return m.use(func(c *rest.Client, _ connstr.String) error {
		result, err := c.PurgeMessages(ctx, m.Device)
		if err != nil {
			return asked(err)
		}
		return printJSON(env.out, result)
	})
}
