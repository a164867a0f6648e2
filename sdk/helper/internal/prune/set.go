package prune

import (
	"strings"

	"sealos.io/devbox-helper/internal/root"
)

// Set is what one request leaves out. A nil Set leaves nothing out.
type Set struct {
	base        string  // patterns begin below this directory
	names       matcher // of objects whose content is nobody's business
	directories matcher // of directories of which the same is true
}

// matcher is several patterns. Most are plain names, which cost one look into a map.
type matcher struct {
	plain    map[string]bool
	patterns []*pattern
}

// New compiles patterns.
func New(base string, names, directories []string) (*Set, error) {
	s := &Set{base: base}
	for _, one := range []struct {
		into  *matcher
		texts []string
	}{{&s.names, names}, {&s.directories, directories}} {
		one.into.plain = map[string]bool{}
		for _, text := range one.texts {
			plain, p, err := compile(text)
			switch {
			case err != nil:
				return nil, err
			case p != nil:
				one.into.patterns = append(one.into.patterns, p)
			default:
				one.into.plain[plain] = true
			}
		}
	}
	return s, nil
}

// match takes a name and the path from the base that it ends.
func (m *matcher) match(last, whole string) bool {
	if m.plain[last] {
		return true
	}
	var names []string
	for _, p := range m.patterns {
		if !p.anchored {
			if name(p.parts[0].items, last) {
				return true
			}
			continue
		}
		if names == nil {
			names = strings.Split(whole, "/")
		}
		if path(p.parts, names) {
			return true
		}
	}
	return false
}

func (m *matcher) anchored() bool {
	for _, p := range m.patterns {
		if p.anchored {
			return true
		}
	}
	return false
}

// below returns the path from the base; false: it is not below that.
func (s *Set) below(dir, name string) (string, bool) {
	whole := root.Join(dir, name)
	if s.base == "" {
		return whole, true
	}
	if whole == s.base || !root.Within(whole, s.base) {
		return "", false
	}
	return whole[len(s.base)+1:], true
}

// Names tells whether an entry of a directory matches by its name, whatever it is: its changes are not told of.
func (s *Set) Names(dir, name string) bool {
	if s == nil {
		return false
	}
	whole, ok := s.below(dir, name)
	return ok && s.names.match(name, whole)
}

// Prunes tells whether a directory of this name is neither listed nor watched.
func (s *Set) Prunes(dir, name string) bool {
	if s == nil {
		return false
	}
	whole, ok := s.below(dir, name)
	return ok && (s.names.match(name, whole) || s.directories.match(name, whole))
}

// Anchored tells whether a directory's place matters: what is below one that is renamed may match then, or not any more.
func (s *Set) Anchored() bool {
	return s != nil && (s.names.anchored() || s.directories.anchored())
}
