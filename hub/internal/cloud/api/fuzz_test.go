package api

import (
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func FuzzParseBatch(f *testing.F) {
	f.Add([]byte(`[{"body":"Yg==","base64Encoded":true,"properties":{"iothub-app-k":"v","iothub-messageid":"m"}},{"body":"b","base64Encoded":false}]`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`[{"properties":{"iothub-connection-device-id":"x","iothub-app-iothub-enqueuedtime":"y","":"z"}}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := parseBatch(body)
		if err == nil && len(list) == 0 {
			t.Fatal("neither messages nor an error")
		}
		for _, m := range list {
			if err != nil || m.Sender() != (iothub.Identity{}) || m.System.Get(iothub.EnqueuedTime) != "" {
				t.Fatalf("%v, %v", m, err)
			}
			for _, p := range m.Properties {
				if p.Name == "" || p.Name == "iothub-enqueuedtime" {
					t.Fatalf("property %q", p.Name)
				}
			}
		}
	})
}
