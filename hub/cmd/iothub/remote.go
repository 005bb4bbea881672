package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/pki"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/server"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// remote is how a subcommand finds the hub.
type remote struct {
	Login string `env:"IOTHUB_CONNECTION_STRING" help:"Connection string of a policy of the hub."`
	Data  string `type:"path" help:"Data directory of a hub on this machine; stands for --login and --ca."`
	CA    string `name:"ca" type:"existingfile" help:"PEM file with the root to trust (that of the system by default)."`
	Host  string `help:"Where to connect, as name[:port] (the hub's name by default)."`
}

// tokenLife is how long a token is good; a subcommand makes one for each request.
const tokenLife = time.Hour

// connect returns a client; the caller closes it.
func (r *remote) connect() (*rest.Client, connstr.String, error) {
	login, err := r.login()
	if err != nil {
		return nil, login, err
	}
	roots, err := r.roots()
	if err != nil {
		return nil, login, err
	}
	client, err := rest.New(rest.Options{
		HubName: login.HostName, Host: r.Host, RootCAs: roots, UserAgent: "breakwater-iothub",
		Authorize: func(context.Context) (string, error) {
			return sas.New(sas.HubResource(login.HostName), time.Now().Add(tokenLife), login.SharedAccessKeyName, login.SharedAccessKey.Sign)
		},
	})
	return client, login, err
}

func (r *remote) login() (connstr.String, error) {
	text := r.Login
	// --data beats the login, which may come from the environment unasked.
	if r.Data != "" {
		raw, err := os.ReadFile(filepath.Join(r.Data, server.ConnectionStringFile))
		if err != nil {
			return connstr.String{}, fmt.Errorf("login: %w", err)
		}
		text = string(raw)
	}
	if text == "" {
		return connstr.String{}, usageError{errors.New("no login: give --login, --data or IOTHUB_CONNECTION_STRING")}
	}
	login, err := connstr.Parse(text)
	if err != nil {
		return login, usageError{fmt.Errorf("login: %w", err)}
	}
	if login.SharedAccessKeyName == "" || len(login.SharedAccessKey) == 0 {
		return login, usageError{errors.New("login: not the connection string of a policy")}
	}
	return login, nil
}

func (r *remote) roots() (*x509.CertPool, error) {
	path := r.CA
	if path == "" && r.Data != "" {
		path = filepath.Join(r.Data, pki.RootFile)
	}
	if path == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("root certificate: %s holds none", path)
	}
	return pool, nil
}

// unreachableError marks errors of requests that got no answer.
type unreachableError struct{ error }

func (u unreachableError) Unwrap() error { return u.error }

// use runs f with a client.
func (r *remote) use(f func(c *rest.Client, login connstr.String) error) error {
	c, login, err := r.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c, login)
}

// asked marks err if the hub gave no answer.
func asked(err error) error {
	if err == nil || rest.StatusOf(err) > 0 {
		return err
	}
	return unreachableError{err}
}

func printJSON(w io.Writer, doc any) error {
	raw, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", raw)
	return err
}

// argument returns a value given on the command line: itself, the content of a
// file ("@name"), or of the standard input ("-").
func argument(env environment, v string) ([]byte, error) {
	switch {
	case v == "-":
		return io.ReadAll(env.in)
	case strings.HasPrefix(v, "@"):
		return os.ReadFile(v[1:])
	}
	return []byte(v), nil
}

// jsonArgument is argument for JSON.
func jsonArgument(env environment, what, v string) (json.RawMessage, error) {
	raw, err := argument(env, v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if !json.Valid(raw) {
		return nil, usageError{fmt.Errorf("%s is not JSON", what)}
	}
	return raw, nil
}
