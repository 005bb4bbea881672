package cloud

import (
	"context"
	"errors"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/c2d"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// errUnsettled ends an MQTT connection so that its messages can come again.
var errUnsettled = errors.New("the client does not acknowledge its messages")

// Messages returns the cloud-to-device queues, for what devices and services do with
// messages that are there.
func (h *Hub) Messages() *c2d.Queues { return h.messages }

// SendToDevice queues a message for a device, or for a module that is not one of an
// edge device: those get theirs by routes. It is on disk when SendToDevice returns
// nil. Errors: *registry.Error, those of c2d.Queues.Send.
func (h *Hub) SendToDevice(ctx context.Context, id iothub.Identity, m *iothub.Message) error {
	generation, err := h.generation(id)
	if err != nil {
		return err
	}
	if id.IsModule() {
		if d, err := h.registry.Device(id.Device); err == nil && d.IsEdge() {
			return &registry.Error{Code: registry.InvalidOperation, Text: "modules of edge devices take no cloud-to-device messages"}
		}
	}
	if err := h.messages.Send(ctx, id, generation, m); err != nil {
		return err
	}
	// Who was deleted meanwhile has left nothing to be deleted yet.
	if _, err := h.generation(id); err != nil {
		h.messages.Forget(id)
		return err
	}
	return nil
}

// knows tells whether an identity of this generation is registered.
func (h *Hub) knows(id iothub.Identity, generation string) bool {
	g, err := h.generation(id)
	return err == nil && g == generation
}

// subscribeMessages starts or resumes the delivery of cloud-to-device messages.
func (s *session) subscribeMessages() {
	s.life.Lock()
	defer s.life.Unlock()
	switch {
	case s.closed:
	case s.messages != nil:
		s.messages.Resume()
	default:
		mqtt := s.login.Protocol == "mqtt" || s.login.Protocol == "mqtt-ws"
		o := c2d.SubscribeOptions{
			// What was sent before the subscription is for sessions that last (spec
			// iothub-mqtt 8).
			OnlyNew:       mqtt && s.login.CleanSession,
			AbandonPauses: mqtt,
			Deliver:       s.deliver,
		}
		if mqtt {
			o.Stuck = func() { s.disconnect(errUnsettled) }
		}
		if c, ok := s.client.(head.Windowed); ok {
			o.Window = func() int { return s.window(c) }
		}
		s.messages = s.h.messages.Subscribe(s.id, o)
	}
}

func (s *session) unsubscribeMessages() {
	s.life.Lock()
	defer s.life.Unlock()
	if s.messages != nil {
		s.messages.Close()
		s.messages = nil
	}
}

// window is how many messages the client takes now.
func (s *session) window(c head.Windowed) int {
	s.life.RLock()
	defer s.life.RUnlock()
	if s.closed {
		return 0
	}
	return c.Window(head.C2D)
}

func (s *session) deliver(m *iothub.Message, settled func(head.Outcome) bool) {
	s.life.RLock()
	defer s.life.RUnlock()
	if s.closed {
		settled(head.Lost)
		return
	}
	s.client.Deliver("", m, settled)
}

// messageError translates errors of SendToDevice for heads.
func messageError(err error) error {
	var refusal *registry.Error
	switch {
	case errors.As(err, &refusal) && refusal.Code == registry.InvalidOperation, errors.Is(err, c2d.ErrInvalid):
		return fmt.Errorf("%w: %w", head.ErrInvalid, err)
	case errors.As(err, &refusal):
		return fmt.Errorf("%w: %w", head.ErrNotFound, err)
	case errors.Is(err, c2d.ErrTooLarge):
		return fmt.Errorf("%w: %w", head.ErrTooLarge, err)
	case errors.Is(err, c2d.ErrFull):
		return fmt.Errorf("%w: %w", head.ErrThrottled, err)
	}
	return fmt.Errorf("%w: %w", head.ErrUnavailable, err)
}
