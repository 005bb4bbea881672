package cloud

import (
	"context"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/c2d"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

var _ head.ServiceBackend = (*Hub)(nil)

// ConnectService implements head.ServiceBackend.
func (h *Hub) ConnectService(_ context.Context, login head.ServiceLogin) (head.ServiceSession, error) {
	s, err := h.admitService(login)
	if err != nil {
		h.log.Info("service refused", "protocol", login.Protocol, "remote", login.Remote, "error", err)
		return nil, err
	}
	h.log.Debug("service connected", "protocol", login.Protocol, "remote", login.Remote)
	return s, nil
}

func (h *Hub) admitService(login head.ServiceLogin) (*service, error) {
	grant, err := h.access.Service(login)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", head.ErrUnauthorized, err)
	}
	return &service{h: h, grant: grant}, nil
}

// service is one authenticated service of a head.
type service struct {
	h     *Hub
	grant access.ServiceGrant
}

// Expires implements head.ServiceSession.
func (s *service) Expires() time.Time { return s.grant.Expires }

// EventPath implements head.ServiceSession.
func (s *service) EventPath() string { return s.grant.EventPath }

// SendToDevice implements head.ServiceSession.
func (s *service) SendToDevice(ctx context.Context, to iothub.Identity, m *iothub.Message) error {
	if s.grant.EventPath != "" {
		return fmt.Errorf("%w: the credentials are for events", head.ErrUnauthorized)
	}
	if err := s.h.SendToDevice(ctx, to, m); err != nil {
		return messageError(err)
	}
	return nil
}

// Feedback implements head.ServiceSession.
func (s *service) Feedback(ctx context.Context) (head.FeedbackBatch, error) {
	if s.grant.EventPath != "" {
		return head.FeedbackBatch{}, fmt.Errorf("%w: the credentials are for events", head.ErrUnauthorized)
	}
	b, err := s.h.messages.Feedback(ctx)
	if err != nil {
		return head.FeedbackBatch{}, err
	}
	return s.h.feedbackBatch(ctx, b), nil
}

// feedbackBatch is a batch that its receiver settles whenever it likes, also after
// its own end.
func (h *Hub) feedbackBatch(ctx context.Context, b *c2d.Batch) head.FeedbackBatch {
	ctx = context.WithoutCancel(ctx)
	return head.FeedbackBatch{Body: b.Body, LockToken: b.Token, Hub: h.o.Hosts[0], Enqueued: b.Enqueued,
		Settle: func(o head.Outcome) bool {
			err := h.messages.SettleFeedback(ctx, b.Token, o)
			if err != nil {
				h.log.Warn("feedback not settled", "error", err)
			}
			return err == nil
		}}
}
