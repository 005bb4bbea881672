package access_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// signedWith makes a token of a policy for a resource, signed with the bytes of key.
func signedWith(t *testing.T, resource, policy string, key []byte, expiry time.Time) string {
	t.Helper()
	s, err := sas.New(url.QueryEscape(resource), expiry, policy, func(data []byte) ([]byte, error) {
		h := hmac.New(sha256.New, key)
		h.Write(data)
		return h.Sum(nil), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestServices(t *testing.T) {
	w := newWorld(t)
	check := access.New(w.r, access.Options{Hosts: []string{host}, Policies: w.policies, EventHub: "Eh", EventHosts: []string{"events.example.com"},
		Now: func() time.Time { return now }})
	service, registry := w.policies["service"], w.policies["registryRead"]
	key, text := []byte(service.Secondary), []byte(service.Primary.Base64())
	later := now.Add(time.Hour)
	token := func(resource string, key []byte) head.ServiceLogin {
		return head.ServiceLogin{Token: signedWith(t, resource, "service", key, later)}
	}
	const elsewhere, no = "https://" + host, "refused"
	for name, c := range map[string]struct {
		login head.ServiceLogin
		path  string
	}{
		"hub":                               {token(host, key), ""},
		"hub with a scheme":                 {token(elsewhere, key), ""},
		"path of the redirect":              {token(host+"/messages/events", key), ""},
		"hub, key as text":                  {token(host, text), no},
		"another host":                      {token("x.example.com", key), no},
		"another host for events":           {token("sb://x.example.com/eh", text), no},
		"host of events, but not for them":  {token("sb://events.example.com/", key), no},
		"another event hub":                 {token("sb://events.example.com/other", text), no},
		"events at the host of the hub":     {token("sb://"+host+"/eh", text), "eh"},
		"events, key decoded":               {token("sb://events.example.com/EH/", key), "EH"},
		"partition":                         {token("amqps://events.example.com:5671/eh/ConsumerGroups/$Default/Partitions/0", text), "eh/ConsumerGroups/$Default/Partitions/0"},
		"events, another key":               {token("sb://events.example.com/eh", []byte("x")), no},
		"expired":                           {head.ServiceLogin{Token: signedWith(t, host, "service", key, now.Add(-time.Hour))}, no},
		"no policy":                         {head.ServiceLogin{Token: signedWith(t, host, "", key, later)}, no},
		"policy without the right":          {head.ServiceLogin{Token: signedWith(t, host, "registryRead", registry.Primary, later)}, no},
		"no token":                          {head.ServiceLogin{}, no},
		"key":                               {head.ServiceLogin{Policy: "service", Key: service.Secondary.Base64()}, ""},
		"key of another policy":             {head.ServiceLogin{Policy: "service", Key: registry.Primary.Base64()}, no},
		"key of a policy without the right": {head.ServiceLogin{Policy: "registryRead", Key: registry.Primary.Base64()}, no},
		"key of nobody":                     {head.ServiceLogin{Policy: "x", Key: service.Primary.Base64()}, no},
		"empty key":                         {head.ServiceLogin{Policy: "service"}, no},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := check.Service(c.login)
			switch {
			case c.path == no:
				if !errors.Is(err, access.ErrRefused) {
					t.Errorf("%+v, %v", g, err)
				}
			case err != nil || g.EventPath != c.path:
				t.Errorf("%+v, %v", g, err)
			case c.login.Token != "" && !g.Expires.Equal(later.Add(sas.Skew)), c.login.Token == "" && !g.Expires.IsZero():
				t.Errorf("expires %v", g.Expires)
			}
		})
	}
}

// TestTokensForEventsOpenNothingElse checks those that are signed as all others are.
func TestTokensForEventsOpenNothingElse(t *testing.T) {
	w := newWorld(t)
	check := access.New(w.r, access.Options{Hosts: []string{host}, Policies: w.policies, EventHub: "eh", Now: func() time.Time { return now }})
	owner := w.policies[access.Owner]
	for path, want := range map[string]bool{"": true, "/messages/events": true, "/eh": false, "/EH/ConsumerGroups/$Default/Partitions/0": false} {
		token := signedWith(t, host+path, owner.Name, owner.Primary, now.Add(time.Hour))
		_, err := check.Request(token, nil, iothub.Identity{})
		if (err == nil) != want {
			t.Errorf("request with a token for %q: %v", path, err)
		}
		if err := check.ConnectPolicy(token); (err == nil) != want {
			t.Errorf("devices with a token for %q: %v", path, err)
		}
	}
}
