package mqtt

import (
	"encoding/json"
	"net/http"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

// twinQueue is how many twin requests of one client may wait; one more is
// answered with 429.
const twinQueue = 16

// twinWorker does the twin requests of one connection one after the other, so that
// patches keep their order and the reader does not wait for the cloud. It starts
// with the first request.
type twinWorker struct {
	requests chan twinRequest
	running  bool // reader only
}

type twinRequest struct {
	topic topic.Topic
	patch json.RawMessage
	seq   uint64 // of the inbox, to settle when done
	last  bool   // settle: the publish is acknowledged only when done
}

// twinRequest queues a GET or PATCH. Its PUBACK goes out at once, because the
// answer follows by topic, except for a patch that wants no answer: that one is
// acknowledged when it is done.
func (c *client) twinRequest(t topic.Topic, body []byte, seq uint64) {
	r := twinRequest{topic: t, seq: seq, last: t.RequestID == ""}
	if t.Kind == topic.TwinPatchReported {
		r.patch = body
	}
	if !c.twin.running {
		c.twin.running = true
		c.spawn(c.twinLoop)
	}
	select {
	case c.twin.requests <- r:
		if !r.last {
			c.in.settle(seq)
		}
	default:
		if r.last {
			c.stop(head.ErrThrottled) // without PUBACK: the client will send it again
			return
		}
		c.in.settle(seq)
		c.twinError(r, head.ErrThrottled)
	}
}

func (c *client) twinLoop() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case r := <-c.twin.requests:
			c.doTwin(r)
		}
	}
}

func (c *client) doTwin(r twinRequest) {
	if r.topic.Kind == topic.TwinGet {
		twin, err := c.session.Twin(c.ctx)
		if err != nil {
			c.twinError(r, err)
			return
		}
		body, err := twinBody(twin)
		if err != nil {
			c.twinError(r, err)
			return
		}
		c.twinResponse(r, http.StatusOK, 0, body)
		return
	}
	version, err := c.patchReported(r)
	if err != nil {
		c.twinError(r, err)
	} else {
		c.twinResponse(r, http.StatusNoContent, version, nil)
	}
	if r.last && c.ctx.Err() == nil {
		c.in.settle(r.seq)
	}
}

func (c *client) patchReported(r twinRequest) (int64, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(r.patch, &object); err != nil || object == nil {
		return 0, errPatch
	}
	return c.session.PatchReported(c.ctx, r.patch, r.topic.Version)
}

// errPatch is also text for the client.
var errPatch = twinInvalid{}

type twinInvalid struct{}

func (twinInvalid) Error() string { return "the patch is no JSON object" }
func (twinInvalid) Unwrap() error { return head.ErrInvalid }

// twinBody writes both sections, {} for one that the Backend left out.
func twinBody(t iothub.TwinProperties) ([]byte, error) {
	if len(t.Desired) == 0 {
		t.Desired = json.RawMessage("{}")
	}
	if len(t.Reported) == 0 {
		t.Reported = json.RawMessage("{}")
	}
	return json.Marshal(t)
}

// twinResponse answers a request that has an id, if the client listens.
func (c *client) twinResponse(r twinRequest, status int, version int64, body []byte) {
	if r.topic.RequestID == "" {
		return
	}
	c.control(topic.Topic{Kind: topic.TwinResponse, Status: status, RequestID: r.topic.RequestID, Version: version}, body)
}

// twinError answers with what err means to the client.
func (c *client) twinError(r twinRequest, err error) {
	status, body := head.TwinFailure(err, c.srv.opts.Flavor == Edge)
	c.complain("mqtt twin request failed", "kind", r.topic.Kind.String(), "status", status, "err", err)
	c.twinResponse(r, status, 0, body)
}
