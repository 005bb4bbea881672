package api

import (
	"net/http"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// What services do with messages (spec iothub-service 11.2).

func (a *API) sendToDevice(r *request) (answer, error) {
	return answer{}, a.hub.SendToDevice(r.Context(), r.id, messageOf(r))
}

func (a *API) purgeMessages(r *request) (answer, error) {
	if _, err := a.hub.Registry().Chain(r.id); err != nil {
		return answer{}, err
	}
	n, err := a.hub.Messages().Purge(r.Context(), r.id)
	return answer{doc: rest.PurgeResult{DeviceID: r.id.Device, ModuleID: r.id.Module, TotalMessagesPurged: n}}, err
}

func (a *API) receiveFeedback(r *request) (answer, error) {
	b := a.hub.Messages().FeedbackNow()
	if b == nil {
		return answer{}, nil
	}
	h := r.w.Header()
	h.Set("ETag", `"`+b.Token+`"`)
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("iothub-enqueuedtime", b.Enqueued.UTC().Format("2006-01-02T15:04:05.0000000Z"))
	r.w.WriteHeader(http.StatusOK)
	_, _ = r.w.Write(b.Body) // if the client is gone its lock runs out
	return answer{sent: true}, nil
}

func (a *API) completeFeedback(r *request) (answer, error) {
	return answer{}, a.hub.Messages().SettleFeedback(r.Context(), r.token, head.Complete)
}

func (a *API) abandonFeedback(r *request) (answer, error) {
	return answer{}, a.hub.Messages().SettleFeedback(r.Context(), r.token, head.Abandon)
}

// What devices do over HTTP. They count as connected as little as in IoT Hub.

func (a *API) sendEvents(r *request) (answer, error) {
	list, err := telemetryOf(r)
	if err != nil {
		return answer{}, err
	}
	return answer{}, a.hub.Ingest(r.Context(), r.id, r.grant, list)
}

func (a *API) receiveMessage(r *request) (answer, error) {
	m, err := a.hub.Messages().Receive(r.id)
	if m == nil || err != nil {
		return answer{}, err
	}
	h := r.w.Header()
	setHeaders(h, m)
	h.Set("ETag", `"`+m.System.Get(iothub.LockToken)+`"`)
	h.Set("Content-Type", "application/octet-stream")
	r.w.WriteHeader(http.StatusOK)
	_, _ = r.w.Write(m.Body) // as above
	return answer{sent: true}, nil
}

// completeMessage completes, or with "reject" in the query rejects.
func (a *API) completeMessage(r *request) (answer, error) {
	o := head.Complete
	if r.URL.Query().Has("reject") {
		o = head.Reject
	}
	return answer{}, a.hub.Messages().Settle(r.Context(), r.id, r.token, o)
}

func (a *API) abandonMessage(r *request) (answer, error) {
	return answer{}, a.hub.Messages().Settle(r.Context(), r.id, r.token, head.Abandon)
}
