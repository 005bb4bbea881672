package modlog

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// Settings bound one module's log.
type Settings struct {
	// MaxSize is the size of one file in bytes, MaxFiles how many there may be.
	MaxSize  int64
	MaxFiles int
}

// Default is what a module without a LogConfig gets.
var Default = Settings{MaxSize: 10 << 20, MaxFiles: 3}

// minSize leaves room for a few of the longest records.
const minSize = int64(4 * maxRecord)

// FromLogConfig reads Docker's options max-size ("10m") and max-file ("3"). What
// is absent is taken from Default; sizes too small to be useful are raised. The
// error names the option.
func FromLogConfig(config map[string]string) (Settings, error) {
	s := Default
	if v, ok := config["max-size"]; ok {
		n, err := parseSize(v)
		if err != nil {
			return s, fmt.Errorf("max-size: %w", err)
		}
		s.MaxSize = max(n, minSize)
	}
	if v, ok := config["max-file"]; ok {
		n, err := strconv.Atoi(strings.TrimSpace(v))
		if err != nil || n < 1 {
			return s, fmt.Errorf("max-file: %q is not a number above 0", v)
		}
		s.MaxFiles = n
	}
	return s, nil
}

// parseSize reads "100", "10k", "10kb", "10KiB", "10m", "1g"; -1 is "as much as
// you like", which here is the default.
func parseSize(text string) (int64, error) {
	s := strings.ToLower(strings.TrimSpace(text))
	if s == "-1" || s == "0" {
		return Default.MaxSize, nil
	}
	digits := strings.TrimRight(s, "bikmgt ")
	unit := strings.Trim(strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(s[len(digits):]), "b"), "i"), " ")
	shift, ok := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[unit]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	return n << shift, nil
}

// Encode packs the settings and the directory into the one argument that the shim
// can pass on to the writer.
func (s Settings) Encode(dir string) string {
	return url.Values{
		"dir":   {dir},
		"size":  {strconv.FormatInt(s.MaxSize, 10)},
		"files": {strconv.Itoa(s.MaxFiles)},
	}.Encode()
}

// Decode is the reverse of Encode.
func Decode(arg string) (dir string, s Settings, err error) {
	v, err := url.ParseQuery(arg)
	if err != nil {
		return "", s, fmt.Errorf("log writer argument: %w", err)
	}
	s.MaxSize, err = strconv.ParseInt(v.Get("size"), 10, 64)
	if err != nil || s.MaxSize < minSize {
		return "", s, fmt.Errorf("log writer argument: size %q", v.Get("size"))
	}
	s.MaxFiles, err = strconv.Atoi(v.Get("files"))
	if err != nil || s.MaxFiles < 1 {
		return "", s, fmt.Errorf("log writer argument: files %q", v.Get("files"))
	}
	dir = v.Get("dir")
	if !filepath.IsAbs(dir) {
		return "", s, fmt.Errorf("log writer argument: dir %q", dir)
	}
	return dir, s, nil
}
