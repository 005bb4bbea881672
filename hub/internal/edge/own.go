package edge

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const (
	// callLimit bounds the work on one thing that the cloud has said.
	callLimit = time.Minute
	// methodLimit is how long a client may take to answer (spec edgehub-core 10.1).
	methodLimit = 330 * time.Second

	refreshMethod = "RefreshDeviceScopeIdentityCache"
)

// ownMethod answers a direct method on $edgeHub (spec edgehub-core 3).
func (h *Hub) ownMethod(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse {
	if r.Name != refreshMethod {
		return methodError(http.StatusNotFound, "method is not known")
	}
	var request struct {
		DeviceIDs []string `json:"deviceIds"`
	}
	if err := json.Unmarshal(r.Payload, &request); err != nil {
		return methodError(http.StatusBadRequest, "payload is not {\"deviceIds\": [...]}")
	}
	for _, text := range request.DeviceIDs {
		id, err := iothub.ParseIdentity(text)
		if err != nil {
			return methodError(http.StatusBadRequest, err.Error())
		}
		if _, err := h.scope.Refresh(ctx, id); err != nil {
			h.log.Warn("identity not refreshed", "id", text, "error", err)
			return methodError(http.StatusInternalServerError, "identity "+text+" could not be refreshed")
		}
	}
	return iothub.MethodResponse{Status: http.StatusOK}
}

func methodError(status int, text string) iothub.MethodResponse {
	payload, err := json.Marshal(map[string]string{"message": text})
	if err != nil {
		return iothub.MethodResponse{Status: status}
	}
	return iothub.MethodResponse{Status: status, Payload: payload}
}
