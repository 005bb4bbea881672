package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// connect opens the management API. The socket's peer credentials are all the
// authentication there is.
func (e *env) connect() (*grpc.ClientConn, error) {
	path, ok := strings.CutPrefix(e.host, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("host %q: %w", e.host, errUsage)
	}
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("host %q: %w", e.host, err)
	}
	return conn, nil
}

// dial opens the modules' part of the management API.
func (e *env) dial() (managementv1.ModulesClient, io.Closer, error) {
	conn, err := e.connect()
	if err != nil {
		return nil, nil, err
	}
	return managementv1.NewModulesClient(conn), conn, nil
}

type listCmd struct{}

func (listCmd) Run(e *env) error {
	c, conn, err := e.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	res, err := c.List(e.ctx, &managementv1.ListRequest{})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATUS\tDESCRIPTION\tCONFIG")
	for _, m := range res.GetModules() {
		image := m.GetConfig().GetSettings().GetFields()["image"].GetStringValue()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.GetName(), m.GetStatus().GetRuntimeStatus().GetStatus(),
			description(m.GetStatus(), time.Now()), image)
	}
	return w.Flush()
}

// description is a state in words: "Up 3 hours", "Stopped 2 minutes ago",
// "Failed (137) 1 hour ago".
func description(s *managementv1.ModuleStatus, now time.Time) string {
	switch word := s.GetRuntimeStatus().GetStatus(); word {
	case "running":
		return strings.TrimSpace("Up " + since(s.GetStartTime(), now))
	case "stopped", "failed":
		text := strings.ToUpper(word[:1]) + word[1:]
		if word == "failed" {
			text += " (" + cmp.Or(s.GetExitStatus().GetStatusCode(), "?") + ")"
		}
		if ago := since(s.GetExitStatus().GetExitTime(), now); ago != "" {
			text += " " + ago + " ago"
		}
		return text
	default:
		return strings.ToUpper(word[:min(1, len(word))]) + word[min(1, len(word)):]
	}
}

// since says how long ago an RFC 3339 time was, in its largest whole unit; empty
// when the time is unknown.
func since(at string, now time.Time) string {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return ""
	}
	d := max(0, now.Sub(t))
	for _, u := range []struct {
		size time.Duration
		name string
	}{
		{7 * 24 * time.Hour, "week"}, {24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"},
	} {
		if n := d / u.size; n == 1 {
			return "1 " + u.name
		} else if n > 1 || u.size == time.Second {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return ""
}

type restartCmd struct {
	Module string `arg:"" help:"Name of the module."`
}

// Run stops and starts, so that the module's socket is made anew.
func (r restartCmd) Run(e *env) error {
	c, conn, err := e.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := c.Stop(e.ctx, &managementv1.StopRequest{Name: r.Module}); err != nil {
		return err
	}
	if _, err := c.Start(e.ctx, &managementv1.StartRequest{Name: r.Module}); err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, r.Module)
	return err
}

type logsCmd struct {
	Module string `arg:"" help:"Name of the module."`
	Follow bool   `short:"f" help:"Wait for more."`
	Tail   string `default:"all" help:"Number of last lines, or all."`
	Since  string `help:"Only lines since a time, or a duration such as \"1 day\" ago."`
	Until  string `help:"Only lines before a time, or a duration ago."`
}

// Run writes the module's streams to its own.
func (l logsCmd) Run(e *env) error {
	c, conn, err := e.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := c.Logs(e.ctx, &managementv1.LogsRequest{
		Name: l.Module, Follow: l.Follow, Tail: l.Tail, Since: l.Since, Until: l.Until,
	})
	if err != nil {
		return err
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		out := e.stdout
		if chunk.GetStream() == managementv1.LogChunk_STREAM_STDERR {
			out = e.stderr
		}
		if _, err := out.Write(chunk.GetData()); err != nil {
			return err
		}
	}
}
