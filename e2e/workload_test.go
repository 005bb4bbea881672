//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// signEnv makes the test binary ask a workload API for a signature, as a process of
// its own that can be put among those of a module.
const signEnv = "BREAKWATER_E2E_SIGN"

func TestMain(m *testing.M) {
	if request := os.Getenv(signEnv); request != "" {
		sign(request)
		return
	}
	code, err := withImages(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// images are built and pushed once for all tests.
var images *rig.Registry

func withImages(run func() int) (int, error) {
	folder, err := os.MkdirTemp("", "breakwater-images-")
	if err != nil {
		return 0, err
	}
	if images, err = rig.NewRegistry(folder, io.Discard); err != nil {
		return 0, err
	}
	return run(), os.RemoveAll(folder)
}

// sign waits for a line on standard input, sends the request "socket path" and
// prints the status.
func sign(request string) {
	socket, path, _ := strings.Cut(request, " ")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		fmt.Println("error", err)
		return
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	body := strings.NewReader(`{"keyId":"primary","algo":"HMACSHA256","data":"aGVsbG8="}`)
	resp, err := client.Post("http://workload"+path, "application/json", body)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Printf("%d %s\n", resp.StatusCode, text)
}

// signAs asks for a signature from a process that is among those of a module, or
// of none ("").
func (p *path) signAs(t *testing.T, module, socket, path string) string {
	t.Helper()
	cmd := exec.CommandContext(p.ctx, os.Args[0])
	cmd.Env = append(os.Environ(), signEnv+"="+socket+" "+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if module != "" {
		join(t, cmd.Process.Pid, p.pids(t)[module])
	}
	if _, err := io.WriteString(stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// join puts a process into the control groups of another, as `ctr tasks exec` would.
func join(t *testing.T, pid, other int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", other))
	if err != nil {
		t.Fatal(err)
	}
	joined := false
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		root := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(f[1], "name="))
		if f[1] == "" {
			if root = "/sys/fs/cgroup"; !exists(filepath.Join(root, "cgroup.procs")) {
				root = "/sys/fs/cgroup/unified"
			}
		}
		procs := filepath.Join(root, f[2], "cgroup.procs")
		if !exists(procs) {
			continue
		}
		if err := os.WriteFile(procs, []byte(fmt.Sprint(pid)), 0o600); err != nil {
			t.Fatalf("join %s: %v", procs, err)
		}
		joined = true
	}
	if !joined {
		t.Fatalf("no control group of process %d was found:\n%s", other, text)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// signPath is the path of the call by which a running module asks for a signature.
func (p *path) signPath(t *testing.T, module string) string {
	t.Helper()
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pids(t)[module]))
	if err != nil {
		t.Fatal(err)
	}
	generation := ""
	for v := range strings.SplitSeq(string(environ), "\x00") {
		if g, ok := strings.CutPrefix(v, "IOTEDGE_MODULEGENERATIONID="); ok {
			generation = g
		}
	}
	return "/modules/" + module + "/genid/" + url.PathEscape(generation) + "/sign?api-version=2018-06-28"
}

// foreignSocket asks for signatures as a process of a module, of another module and
// of none.
func (p *path) foreignSocket(t *testing.T) {
	path := p.signPath(t, "filter")
	tests := []struct {
		name, caller, socket string
		status               string
	}{
		{"the module itself", "filter", "filter", "200"},
		{"another module on the module's socket", "temperature-sensor", "filter", "403"},
		{"another module on its own socket", "temperature-sensor", "temperature-sensor", "403"},
		{"the module on another's socket", "filter", "temperature-sensor", "403"},
		{"root on the machine", "", "filter", "403"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := p.signAs(t, tt.caller, p.ModuleSocket(tt.socket), path)
			status, body, _ := strings.Cut(got, " ")
			var answer struct {
				Digest  string `json:"digest"`
				Message string `json:"message"`
			}
			if err := json.Unmarshal([]byte(body), &answer); err != nil {
				t.Fatalf("answer %q: %v", got, err)
			}
			if status != tt.status || (answer.Digest != "") != (tt.status == "200") {
				t.Errorf("answer %q, want status %s", got, tt.status)
			}
		})
	}
}
