package prune_test

import (
	"testing"

	"sealos.io/devbox-helper/internal/prune"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/vectors"
)

func TestVectors(t *testing.T) {
	var v struct {
		Matches []struct {
			Pattern, Path string
			Match         bool
		}
		Refused []string
	}
	vectors.Load(t, "patterns", &v)
	for _, one := range v.Matches {
		pattern, path := string(vectors.Hex(t, one.Pattern)), string(vectors.Hex(t, one.Path))
		dir, name := root.Split(path)
		for _, base := range []string{"", "some/base"} {
			s, err := prune.New(base, []string{pattern}, nil)
			if err != nil {
				t.Fatal(pattern, err)
			}
			within := root.Join(base, dir)
			if dir == "" {
				within = base
			}
			if s.Names(within, name) != one.Match || s.Prunes(within, name) != one.Match {
				t.Errorf("%q and %q below %q: not %v", pattern, path, base, one.Match)
			}
			if base != "" && s.Prunes(dir, name) {
				t.Errorf("%q and %q: not below %q", pattern, path, base)
			}
		}
	}
	for _, one := range v.Refused {
		if _, err := prune.New("", nil, []string{string(vectors.Hex(t, one))}); err == nil {
			t.Errorf("%q", vectors.Hex(t, one))
		}
	}
	if len(v.Matches) < 50 || len(v.Refused) < 10 {
		t.Fatal("vectors are missing")
	}
}

func TestKinds(t *testing.T) {
	s, err := prune.New("", []string{"*.o", "plain"}, []string{"/build", "target"})
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		dir, name     string
		names, prunes bool
	}{
		{"", "a.o", true, true}, {"x", "plain", true, true}, {"", "build", false, true}, {"x", "build", false, false},
		{"x/y", "target", false, true}, {"", "src", false, false},
	} {
		if s.Names(one.dir, one.name) != one.names || s.Prunes(one.dir, one.name) != one.prunes {
			t.Error(one)
		}
	}
	if !s.Anchored() {
		t.Error("/build is anchored")
	}
	var none *prune.Set
	if none.Names("", "a") || none.Prunes("", "a") || none.Anchored() {
		t.Error("nothing is left out by nothing")
	}
	if s, _ := prune.New("", []string{"a*"}, []string{"b"}); s.Anchored() {
		t.Error("names are not anchored")
	}
}

func FuzzPatterns(f *testing.F) {
	f.Add("a/**/[!b-d]*", "a/x/e")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if s, err := prune.New("", []string{pattern}, nil); err == nil {
			dir, name := root.Split(path)
			s.Names(dir, name)
		}
	})
}
