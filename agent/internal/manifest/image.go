package manifest

import (
	"regexp"
	"strings"
	"unicode"
)

var (
	upstreamRef = regexp.MustCompile(`\$upstream(:[1-9])`)
	imageDigest = regexp.MustCompile(`^[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}$`)
)

// ReplaceUpstream puts the parent's host name for $upstream where a port follows.
// ok is false when s names $upstream and there is no parent.
func ReplaceUpstream(s, parent string) (_ string, ok bool) {
	if !upstreamRef.MatchString(s) {
		return s, true
	}
	if parent == "" {
		return s, false
	}
	return upstreamRef.ReplaceAllString(s, strings.ReplaceAll(parent, "$", "$$")+"${1}"), true
}

func parseImage(settings object, opts Options) (string, error) {
	path := settings.at("image")
	s, err := settings.text("image", "")
	if err != nil {
		return "", err
	}
	s = strings.TrimSpace(s)
	if s == "" {
		return "", invalid(path, "is required")
	}
	if strings.HasPrefix(s, "$") {
		if !upstreamRef.MatchString(s) {
			return "", invalid(path, "%q: only $upstream:<port>/... can stand at the beginning", s)
		}
		replaced, ok := ReplaceUpstream(s, opts.Parent)
		if !ok {
			return "", invalid(path, "$upstream needs a parent device, and this device has none")
		}
		s = replaced
	}
	return normalImage(path, s)
}

// normalImage checks [repo/.../]name[:tag][@digest] and adds a missing tag.
func normalImage(path, s string) (string, error) {
	if strings.IndexFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) >= 0 {
		return "", invalid(path, "contains a space or control character")
	}
	ref, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest && !imageDigest.MatchString(digest) {
		return "", invalid(path, "the part after @ must be a digest")
	}
	parts := strings.Split(ref, "/")
	for _, p := range parts {
		if p == "" {
			return "", invalid(path, "%q has an empty part", s)
		}
	}
	name, tag, hasTag := strings.Cut(parts[len(parts)-1], ":")
	if name == "" || hasTag && (tag == "" || strings.Contains(tag, ":")) {
		return "", invalid(path, "%q must be [repository/]name[:tag]", s)
	}
	if !hasTag && !hasDigest {
		s += ":latest"
	}
	return s, nil
}

// SameImage tells whether two references name the same image, the shorthands of
// Docker Hub resolved.
func SameImage(a, b string) bool { return a == b || longImage(a) == longImage(b) }

func longImage(s string) string {
	host, rest, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		s = "docker.io/library/" + s
	case host == "docker.io" || host == "index.docker.io":
		if !strings.Contains(rest, "/") {
			rest = "library/" + rest
		}
		s = "docker.io/" + rest
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		s = "docker.io/" + s
	}
	if last := s[strings.LastIndexByte(s, '/')+1:]; !strings.ContainsAny(last, ":@") {
		s += ":latest"
	}
	return s
}
