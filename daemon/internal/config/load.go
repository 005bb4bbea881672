package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// AppliedPath is where edgectl config apply puts the configuration for edged: a
// change of the file at DefaultPath counts when it is applied, not by chance at the
// next start.
const AppliedPath = "/etc/aziot/edged/config.d/00-super.toml"

// maxFile bounds a config file; real ones have a few KiB.
const maxFile = 1 << 20

// Load reads the file at path. Every problem is reported, joined, as *Error; the
// file must not be accessible to users outside its group, because it holds keys.
// hostname is the machine's name, used when the file has none.
func Load(path, hostname string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Config{}, err
	}
	if perm := st.Mode().Perm(); perm&0o007 != 0 {
		return Config{}, &Error{Reason: fmt.Sprintf("file holds secrets but its mode is %04o: chmod 0600", perm)}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, err
	}
	if len(data) > maxFile {
		return Config{}, &Error{Reason: "file is larger than 1 MiB"}
	}
	return Parse(data, hostname)
}

// Parse reads the text of a config file and checks it; see Load.
func Parse(data []byte, hostname string) (Config, error) {
	lines, err := index(data)
	if err != nil {
		return Config{}, err
	}
	if errs := lines.unsupported(); len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	c := Default()
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return Config{}, decodeError(err)
	}
	if c.Hostname == "" {
		c.Hostname = strings.ToLower(hostname)
	}
	v := validator{c: &c, lines: lines}
	v.all()
	if len(v.errs) > 0 {
		slices.SortStableFunc(v.errs, byLine)
		return Config{}, errors.Join(v.errs...)
	}
	slices.SortStableFunc(c.Warnings, func(a, b *Error) int { return byLine(a, b) })
	return c, nil
}

func byLine(a, b error) int {
	var x, y *Error
	if !errors.As(a, &x) || !errors.As(b, &y) {
		return 0
	}
	return cmp.Or(cmp.Compare(x.Line, y.Line), cmp.Compare(x.Key, y.Key))
}

// decodeError turns the library's errors into ours. Their text may quote the
// document, so only positions and keys are taken from strict errors.
func decodeError(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		errs := make([]error, 0, len(strict.Errors))
		for i := range strict.Errors {
			line, _ := strict.Errors[i].Position()
			key := strings.Join(strict.Errors[i].Key(), ".")
			errs = append(errs, &Error{Line: line, Key: key, Reason: "unknown key"})
		}
		return errors.Join(errs...)
	}
	var dec *toml.DecodeError
	if errors.As(err, &dec) {
		line, _ := dec.Position()
		key := strings.Join(dec.Key(), ".")
		if key != "" {
			return &Error{Line: line, Key: key, Reason: "value of the wrong type"}
		}
		return &Error{Line: line, Reason: strings.TrimPrefix(dec.Error(), "toml: ")}
	}
	return &Error{Reason: "not a valid TOML document"}
}
