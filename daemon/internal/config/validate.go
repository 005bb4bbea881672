package config

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/breakwater-iot/breakwater/daemon/internal/humantime"
)

// validator checks a decoded config and completes it. It collects all errors.
type validator struct {
	c     *Config
	lines *lineIndex
	errs  []error
	// taken are keys of tables that are by id which mean something in this configuration.
	taken map[string]bool
}

// bad reports key.
func (v *validator) bad(key, format string, args ...any) {
	v.errs = append(v.errs, v.at(key, fmt.Sprintf(format, args...)))
}

// warn says that key does less than one could think.
func (v *validator) warn(key, reason string) {
	v.c.Warnings = append(v.c.Warnings, v.at(key, reason))
}

// at finds the line: the key's own, or that of the nearest table above.
func (v *validator) at(key, reason string) *Error {
	e := &Error{Key: key, Reason: reason}
	for k := key; k != "" && e.Line == 0; {
		e.Line = v.lines.line[k]
		i := strings.LastIndexByte(k, '.')
		k = k[:max(i, 0)]
	}
	return e
}

func (v *validator) set(key string) bool { return v.lines.line[key] > 0 }

func (v *validator) all() {
	v.general()
	v.parent()
	v.additionalInfo()
	v.issuance()
	v.named()
	v.localCA()
	v.provisioning()
	v.agent()
	v.network()
	v.watchdog()
	v.edgeCA()
	v.imageGC()
	v.verification()
	v.rest()
	for key, uri := range map[string]string{
		"connect.workload_uri": v.c.Connect.Workload, "connect.management_uri": v.c.Connect.Management,
		"listen.workload_uri": v.c.Listen.Workload, "listen.management_uri": v.c.Listen.Management,
	} {
		if strings.HasPrefix(key, "listen.") && unitName.MatchString(uri) {
			continue
		}
		if _, err := SocketPath(uri); err != nil {
			v.bad(key, "%v", err)
		}
	}
}

func (v *validator) general() {
	c := v.c
	if !isHostName(c.Hostname) {
		v.bad("hostname", "not a host name")
	}
	if !filepath.IsAbs(c.HomeDir) {
		v.bad("homedir", "must be an absolute path")
	}
	if c.CloudTimeoutSec < 70 {
		v.bad("cloud_timeout_sec", "must be at least 70")
	}
	if c.CloudRetries < 0 || c.CloudRetries > 100 {
		v.bad("cloud_retries", "must be from 0 to 100")
	}
	if c.MaxRequests.Management < 1 {
		v.bad("iotedge_max_requests.management", "must be at least 1")
	}
	if c.MaxRequests.Workload < 1 {
		v.bad("iotedge_max_requests.workload", "must be at least 1")
	}
	c.TrustBundleCert = v.file("trust_bundle_cert", c.TrustBundleCert)
}

// additionalInfo reads a table of texts, or the file of them that the original wants.
func (v *validator) additionalInfo() {
	const key = "additional_info"
	table, ok := v.c.AdditionalInfoValue.(map[string]any)
	if uri, isText := v.c.AdditionalInfoValue.(string); isText {
		path := v.file(key, uri)
		if path == "" && uri != "" {
			return
		}
		text, err := os.ReadFile(path)
		if err == nil {
			err = toml.Unmarshal(text, &table)
		}
		if err != nil {
			v.bad(key, "%v", err)
			return
		}
	} else if !ok && v.c.AdditionalInfoValue != nil {
		v.bad(key, "must be a table, or the file:// URI of one")
		return
	}
	for name, value := range table {
		text, ok := value.(string)
		if !ok {
			v.bad(key+"."+name, "value of the wrong type")
			continue
		}
		if v.c.AdditionalInfo == nil {
			v.c.AdditionalInfo = map[string]string{}
		}
		v.c.AdditionalInfo[name] = text
	}
}

// parent settles under which of its two names the parent is given.
func (v *validator) parent() {
	c, key := v.c, "parent_hostname"
	switch {
	case c.ParentAlias != "" && c.ParentHostname != "":
		v.bad("local_gateway_hostname", "is another name of parent_hostname: only one may be given")
	case c.ParentAlias != "":
		key = "local_gateway_hostname"
		c.ParentHostname = c.ParentAlias
	}
	switch parent := c.ParentHostname; {
	case parent == "":
		if v.set("parent_hostname") || v.set("local_gateway_hostname") {
			v.bad(key, "not a host name")
		}
	case !isHostName(parent):
		v.bad(key, "not a host name")
	case strings.EqualFold(parent, c.Hostname):
		v.bad(key, "is the hostname of this device itself")
	}
}

// file turns a file URI or an absolute path into a path.
func (v *validator) file(key, s string) string {
	if s == "" || filepath.IsAbs(s) {
		return s
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "file" || u.Host != "" || !filepath.IsAbs(u.Path) {
		v.bad(key, "must be a file:// URI")
		return ""
	}
	return u.Path
}

func (v *validator) agent() {
	a := &v.c.Agent
	if a.Name != "edgeAgent" {
		v.bad("agent.name", "must be \"edgeAgent\"")
	}
	if a.Type != "docker" {
		v.bad("agent.type", "must be \"docker\"")
	}
	a.PullPolicy = strings.ToLower(a.PullPolicy)
	if a.PullPolicy != "on-create" && a.PullPolicy != "never" {
		v.bad("agent.imagePullPolicy", "must be \"on-create\" or \"never\"")
	}
	if a.Config.Image == "" {
		v.bad("agent.config.image", "missing")
	}
	a.Config.Image = v.upstream("agent.config.image", a.Config.Image)
	a.Config.Auth.ServerAddress = v.upstream("agent.config.auth.serveraddress", a.Config.Auth.ServerAddress)
	for k := range a.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			v.bad("agent.env", "%q is not the name of a variable", k)
		}
	}
	v.agentTrial()
}

// judgeTime is the least that the limit of a trial exceeds the settle time: an agent asks
// for work every 5 s, and the watchdog looks every 10 s.
const judgeTime = 15 * time.Second

func (v *validator) agentTrial() {
	t, table := &v.c.Agent.Trial, "agent.trial."
	if t.Attempts < 1 || t.Attempts > 10 {
		v.bad(table+"attempts", "must be from 1 to 10")
	}
	var err error
	if t.SettleTime, err = humantime.Parse(t.Settle); err != nil || t.SettleTime < time.Second || t.SettleTime > 10*time.Minute {
		v.bad(table+"settle", "must be from 1 second to 10 minutes, such as \"30s\"")
		return
	}
	if t.LimitTime, err = humantime.Parse(t.Limit); err != nil || t.LimitTime < t.SettleTime+judgeTime || t.LimitTime > time.Hour {
		v.bad(table+"limit", "must be at most 1 hour, and at least %v more than settle, such as \"2m\"", judgeTime)
	}
}

// upstream puts the parent in place of $upstream at the beginning of an image or a
// registry, as the agent does for the images of modules.
func (v *validator) upstream(key, name string) string {
	rest, ok := strings.CutPrefix(name, "$upstream")
	switch {
	case !ok:
		return name
	case v.c.ParentHostname == "":
		v.bad(key, "$upstream stands for the parent, and there is no parent_hostname")
	case rest != "" && rest[0] != ':' && rest[0] != '/':
		v.bad(key, "$upstream must be followed by a port or a path")
	}
	return v.c.ParentHostname + rest
}

func (v *validator) watchdog() {
	w := &v.c.Watchdog
	switch n := w.MaxRetriesValue.(type) {
	case string:
		w.MaxRetries = -1
		if n != "infinite" {
			v.bad("watchdog.max_retries", "must be \"infinite\" or a number")
		}
	case int64:
		if n < 0 || n > 1<<30 {
			v.bad("watchdog.max_retries", "must not be negative or huge")
			return
		}
		w.MaxRetries = int(n)
	default:
		v.bad("watchdog.max_retries", "must be \"infinite\" or a number")
	}
}

func (v *validator) imageGC() {
	const day = 24 * time.Hour
	g, table := &v.c.ImageGC, "image_garbage_collection."
	every, err := humantime.Parse(g.Recurrence)
	if err != nil || every < day || every%day != 0 || every > 3650*day {
		v.bad(table+"cleanup_recurrence", "must be a number of whole days such as \"1d\"")
	}
	g.Days = int(every / day)
	if g.MinAge, err = humantime.Parse(g.Age); err != nil || g.MinAge <= 0 {
		v.bad(table+"image_age_cleanup_threshold", "must be a duration such as \"7d\"")
	}
	at, err := time.Parse("15:04", g.Time)
	if err != nil || len(g.Time) != 5 {
		v.bad(table+"cleanup_time", "must be a time of the day such as \"00:00\"")
	}
	g.Hour, g.Minute = at.Hour(), at.Minute()
}

const simpleName pattern = `^[A-Za-z0-9][A-Za-z0-9_.-]{0,75}$`

// pattern is a regular expression that is needed for a moment at the start: compiled,
// those of this package take half a megabyte for as long as the daemon lives.
type pattern string

// MatchString compiles the pattern and applies it.
func (p pattern) MatchString(s string) bool { return regexp.MustCompile(string(p)).MatchString(s) }

// unitName matches an fd:// URI: a socket that the service manager opens, by name.
const unitName pattern = `^fd://[A-Za-z0-9_.@-]{1,255}$`

// SocketPath returns the path of a unix:// URI.
func SocketPath(uri string) (string, error) {
	path, ok := strings.CutPrefix(uri, "unix://")
	switch {
	case strings.HasPrefix(uri, "fd://"):
		return "", fmt.Errorf("fd:// is only for [listen], with the name of a socket unit: %q is no such URI here", uri)
	case !ok || !filepath.IsAbs(path):
		return "", fmt.Errorf("must be unix:// and an absolute path")
	case len(path) > 107:
		return "", fmt.Errorf("path is longer than the 107 bytes of a socket address")
	}
	return filepath.Clean(path), nil
}

func isHostName(s string) bool {
	return len(s) <= 253 && hostName.MatchString(s)
}

const hostName pattern = `^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$`
