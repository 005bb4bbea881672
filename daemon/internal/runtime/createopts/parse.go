package createopts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sort"
	"strings"
)

// ErrSyntax is wrapped by every error of Parse.
var ErrSyntax = errors.New("createOptions")

// Warning is something in the options that has no effect.
type Warning struct {
	// Path is the JSON path, like "HostConfig.Binds[2]".
	Path   string
	Reason string
}

func (w Warning) String() string { return w.Path + ": " + w.Reason }

// Args is a command line. JSON may have it as a list, or as one string, which is
// then for the shell.
type Args []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *Args) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		*a = Args{"/bin/sh", "-c", s}
		return nil
	}
	var list []string
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	*a = list
	return nil
}

// Parse reads a create body. Empty input and null are the empty options. It fails
// on what is not a JSON object or has a member of the wrong type, naming the
// member; unknown members are warnings. It keeps no reference to data.
func Parse(data []byte) (Options, []Warning, error) {
	var opts Options
	data = bytes.TrimSpace(data)
	if len(data) == 0 || string(data) == "null" {
		return opts, nil, nil
	}
	if data[0] != '{' {
		return opts, nil, fmt.Errorf("%w: not a JSON object", ErrSyntax)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&opts); err != nil {
		return Options{}, nil, describe(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Options{}, nil, fmt.Errorf("%w: something follows the JSON object at byte %d", ErrSyntax, dec.InputOffset())
	}
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		return Options{}, nil, describe(err)
	}
	var warnings []Warning
	unknown(tree, reflect.TypeFor[Options](), "", &warnings)
	sort.Slice(warnings, func(i, j int) bool { return warnings[i].Path < warnings[j].Path })
	return opts, warnings, nil
}

func describe(err error) error {
	var typeErr *json.UnmarshalTypeError
	if errors.As(err, &typeErr) {
		path := typeErr.Field
		if path == "" {
			path = "(top)"
		}
		return fmt.Errorf("%w: %s: a JSON %s where %s belongs", ErrSyntax, path, typeErr.Value, typeErr.Type)
	}
	return fmt.Errorf("%w: %w", ErrSyntax, err)
}

// unknown walks the document beside the type and notes members without a field.
// Absent, null and empty members ask for nothing and are not worth a warning.
func unknown(v any, t reflect.Type, path string, out *[]Warning) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			memberPath := strings.TrimPrefix(path+"."+name, ".")
			switch t.Kind() {
			case reflect.Struct:
				f, ok := field(t, name)
				if ok {
					unknown(member, f, memberPath, out)
				} else if !asksNothing(member) {
					*out = append(*out, Warning{memberPath, "not supported, ignored"})
				}
			case reflect.Map:
				unknown(member, t.Elem(), memberPath, out)
			}
		}
	case []any:
		if t.Kind() != reflect.Slice {
			return
		}
		for i, member := range v {
			unknown(member, t.Elem(), fmt.Sprintf("%s[%d]", path, i), out)
		}
	}
}

func field(t reflect.Type, name string) (reflect.Type, bool) {
	f, ok := t.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, name) })
	return f.Type, ok
}

func asksNothing(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
