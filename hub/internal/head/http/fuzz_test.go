package http

import (
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func FuzzParseCall(f *testing.F) {
	for _, s := range []string{
		`{"methodName":"go","payload":{"a":[1,null]},"responseTimeoutInSeconds":30,"connectTimeoutInSeconds":0}`,
		`{"methodName":"","payload":null}`, `{"methodName":"\u0000"}`, `[]`, `{"responseTimeoutInSeconds":-1}`, `{"connectTimeoutInSeconds":9999999999}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parseCall(body)
		if err != nil {
			return
		}
		if c.request.Name == "" || len(c.request.Name) > maxMethodName || len(c.request.Payload) > iothub.MaxMethodPayload ||
			c.response < 5*time.Second || c.response > 300*time.Second || c.connect < 0 || c.connect > 300*time.Second {
			t.Errorf("call %+v out of bounds", c)
		}
	})
}
