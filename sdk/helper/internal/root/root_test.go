package root

import (
	"syscall"
	"testing"

	"sealos.io/devbox-helper/internal/vectors"
)

func TestPathVectors(t *testing.T) {
	var f struct {
		Paths []struct {
			Path  string
			Errno syscall.Errno
		}
	}
	vectors.Load(t, "paths", &f)
	for _, v := range f.Paths {
		err := Check(string(vectors.Hex(t, v.Path)))
		if v.Errno == 0 && err != nil || v.Errno != 0 && err != v.Errno {
			t.Errorf("%.60s: %v, want %v", v.Path, err, v.Errno)
		}
	}
}

func TestVersionVectors(t *testing.T) {
	var f struct {
		Pairs []struct {
			One, Other any
			Match      bool
		}
	}
	vectors.Load(t, "versions", &f)
	for i, v := range f.Pairs {
		one, ok1 := ParseVersion(vectors.Value(t, v.One))
		other, ok2 := ParseVersion(vectors.Value(t, v.Other))
		if !ok1 || !ok2 || one.Match(other) != v.Match || other.Match(one) != v.Match {
			t.Errorf("pair %d: %v %v", i, one, other)
		}
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"a", "", true}, {"a/b", "a", true}, {"a", "a", true}, {"ab", "a", false}, {"a", "a/b", false}, {"b", "a", false}} {
		if Within(c.path, c.dir) != c.want {
			t.Error(c)
		}
	}
}
