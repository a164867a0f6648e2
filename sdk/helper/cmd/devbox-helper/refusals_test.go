package main_test

import (
	"os"
	"syscall"
	"testing"
)

// TestMalformedOperations: nonsense in a manifest is refused whole, before anything is done.
func TestMalformedOperations(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	good := []any{1, "mkdir", b("made"), []any{0}, 0o755, false}
	for _, op := range [][]any{
		{2, "mkdir", b("d"), []any{0}, 0o755, 7},
		{2, "unlink", b("d"), []any{2, b("x")}},
		{2, "unlink", b("d"), []any{2, 1, 5}},
		{2, "unlink", b("d"), []any{4, b("x")}},
		{2, "unlink", b("d"), []any{9}},
		{2, "put", b("d"), []any{0}, -1},
		{2, "write", b("d"), []any{3}, []any{}, -5, nil},
		{2, "write", b("d"), []any{3}, 5, nil, nil},
		{2, "write", b("d"), []any{3}, []any{[]any{-1, 0}}, nil, nil},
		{2, "write", b("d"), []any{3}, []any{[]any{0, 0}, []any{5, 0}}, nil, nil},
		{2, "symlink", b("d"), []any{0}, b("a\x00b"), nil},
		{2, "setxattr", b("d"), []any{3}, b("user.\x00"), b("v"), 0},
		{2, "setxattr", b("d"), []any{3}, b("user.a"), 7, 0},
		{2, "no such kind", b("d"), []any{0}},
		{1, "unlink", b("d"), []any{3}},
	} {
		if a := c.apply([]any{good, op}, text("x")); a.errno != syscall.EINVAL {
			t.Errorf("%v: %v", op, a.errno)
		}
	}
	for _, sync := range []any{5, []any{"text"}, b("path")} {
		if a := c.finish(c.applyBegin([]any{nil, nil, 0, 0, 0, nil, false}, []any{good}, sync)); a.errno != syscall.EINVAL {
			t.Errorf("%v: %v", sync, a.errno)
		}
	}
	if exists(dir + "/made") {
		t.Error("a manifest that was refused was begun")
	}
	for _, args := range [][]any{{b("short"), []any{}}, {5, []any{}}, {random16(), 5}} {
		if errno := c.call("locks", args...).errno; errno != syscall.EINVAL {
			t.Errorf("%v: %v", args, errno)
		}
	}
}

// TestRefusals: what cannot be done says why, and leaves what is there.
func TestRefusals(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "content")
	write(t, dir+"/d/inside", "content")
	os.Symlink("f", dir+"/link")
	syscall.Mkfifo(dir+"/fifo", 0o600)
	c := start(t, dir, options{})
	c.expect(syscall.EEXIST, []any{1, "mkdir", b("d"), []any{0}, 0o755, false})
	c.expect(syscall.ENOTEMPTY, []any{1, "rmdir", b("d"), []any{3}})
	c.expect(syscall.EISDIR, []any{1, "unlink", b("d"), []any{3}})
	c.expect(syscall.ENOTDIR, []any{1, "rmtree", b("f"), []any{3}})
	c.expect(syscall.ENOENT, []any{1, "unlink", b("none"), []any{3}})
	c.expect(syscall.ENOENT, []any{1, "rename", b("x"), []any{3}, b("none"), []any{3}, 0})
	c.expect(syscall.EEXIST, []any{1, "symlink", b("f"), []any{0}, b("x"), nil})
	c.expect(syscall.EEXIST, []any{1, "mknod", b("f"), []any{0}, 0o010600, 0, nil})
	c.expect(syscall.EEXIST, []any{1, "link", b("fifo"), []any{0}, b("f"), []any{3}})
	c.expect(syscall.ELOOP, []any{1, "write", b("link"), []any{3}, []any{}, 0, nil})
	c.expect(syscall.EINVAL, []any{1, "write", b("fifo"), []any{3}, []any{}, 0, nil})
	c.expect(syscall.EOPNOTSUPP, []any{1, "setattr", b("link"), []any{3}, 0o600, nil, nil, nil, nil})
	c.expect(syscall.ENODATA, []any{1, "setxattr", b("f"), []any{3}, b("user.none"), nil, 0})
	if got := read(t, dir+"/f"); got != "content" {
		t.Fatal(got)
	}
	c.expect(0, []any{1, "mkdir", b("one/two/three"), []any{3}, 0o755, true})
	c.expect(0, []any{1, "setattr", b("f"), []any{3}, nil, os.Getuid(), os.Getgid(), nil, nil})
	os.Link(dir+"/f", dir+"/same")
	c.expect(0, []any{1, "rename", b("same"), []any{3}, b("f"), []any{3}, 0}) // two names of one file
	if !exists(dir+"/f") || !exists(dir+"/same") {
		t.Fatal("rename(2) does nothing then")
	}
}

// TestSetgidDirectories: what is made in one has its group, and keeps its bits.
func TestSetgidDirectories(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root has other groups to give")
	}
	dir := workspace(t)
	os.Mkdir(dir+"/shared", 0o755)
	os.Chown(dir+"/shared", -1, 4242)
	os.Chmod(dir+"/shared", 0o775|os.ModeSetgid)
	c := start(t, dir, options{})
	c.expect(0, []any{1, "put", b("shared/f"), []any{0}, 0}, content{"x", 0o4711, stamp})
	c.expect(0, []any{1, "mkdir", b("shared/d"), []any{0}, 0o755, false})
	journal := random16()
	c.must("attach", journal, 1)
	lock := c.applyBegin([]any{journal, random16(), 1, 1, 0, nil, false}, []any{[]any{1, "lock", b("shared/x.lock"), []any{0}, 0o644}}, nil)
	if errnos, _ := c.finish(lock).outcomes(t); errnos[0] != 0 {
		t.Fatal(errnos)
	}
	for _, name := range []string{"f", "d", "x.lock"} {
		var st syscall.Stat_t
		if err := syscall.Lstat(dir+"/shared/"+name, &st); err != nil || st.Gid != 4242 {
			t.Error(name, err, st.Gid)
		}
	}
	os.Remove(dir + "/shared/x.lock") // or its keeper is still there when the directory is removed
	var st syscall.Stat_t
	if syscall.Lstat(dir+"/shared/f", &st); st.Mode&0o7777 != 0o4711 {
		t.Errorf("%o", st.Mode)
	}
}

// TestWithoutState: where nothing can be written down, everything that reads works, and changes say why they do not.
func TestWithoutState(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "content")
	c := start(t, dir, options{args: []string{"--state", "/proc/none/of/it"}})
	for _, one := range c.welcome.Get("capabilities").Items {
		if s := string(one.Bytes); s == "apply" || s == "locks" {
			t.Error(s)
		}
	}
	if c.call("attach", random16(), 1).errno == 0 || c.call("locks", random16(), []any{}).errno == 0 || c.call("detach", random16()).errno == 0 {
		t.Error("a journal without a place")
	}
	if a := c.apply([]any{[]any{1, "unlink", b("f"), []any{3}}}); a.errno == 0 {
		t.Error("changed without a log")
	}
	if got := string(c.must("read", b("f"), nil, 0, -1, false).bytes()); got != "content" {
		t.Error(got)
	}
}

// TestRefusedCopies: sources that are not there or not as expected, targets that are.
func TestRefusedCopies(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "content")
	write(t, dir+"/d/inside", "content")
	write(t, dir+"/there", "kept")
	c := start(t, dir, options{})
	old := c.version("f")
	write(t, dir+"/f", "changed")
	c.expect(syscall.ENOENT, []any{1, "copy", b("x"), []any{0}, b("none"), []any{3}, false})
	c.expect(syscall.ESTALE, []any{1, "copy", b("x"), []any{0}, b("f"), old, false})
	c.expect(syscall.EEXIST, []any{1, "copy", b("there"), []any{0}, b("f"), []any{3}, false})
	c.expect(syscall.EISDIR, []any{1, "copy", b("x"), []any{0}, b("d"), []any{3}, false})
	c.expect(syscall.ENOENT, []any{1, "copy", b("no/x"), []any{0}, b("f"), []any{3}, false})
	c.expect(syscall.ENOENT, []any{1, "rename", b("no/x"), []any{0}, b("f"), []any{3}, 0})
	c.expect(syscall.ESTALE, []any{1, "rename", b("x"), []any{0}, b("f"), old, 0})
	c.expect(syscall.ESTALE, []any{1, "link", b("x"), []any{0}, b("f"), old})
	c.expect(syscall.ENOENT, []any{1, "link", b("x"), []any{0}, b("none"), []any{3}})
	c.expect(syscall.ENOENT, []any{1, "rename", b("x"), []any{3}, b("none"), []any{3}, 2})
	if read(t, dir+"/there") != "kept" || exists(dir+"/x") {
		t.Error("something was done")
	}
}
