package main_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealos.io/devbox-helper/internal/msgpack"
)

func TestWelcome(t *testing.T) {
	c := start(t, workspace(t), options{})
	for _, key := range []string{"protocol", "version", "capabilities", "root", "uid", "gid", "groups", "umask", "hostname", "clock_ns",
		"boot_id", "epoch", "pid", "helper", "window", "max_requests", "max_payload", "root_attr", "statvfs", "compress"} {
		if c.welcome.Get(key).IsNil() {
			t.Errorf("WELCOME has no %s", key)
		}
	}
}

func TestReadOperations(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/a/b", "hello")
	write(t, dir+"/strange\n\xff", "x")
	os.Symlink("a/b", dir+"/link")
	syscall.Mkfifo(dir+"/fifo", 0o600)
	c := start(t, dir, options{})
	attr := c.must("stat", b("a/b"), false, 0).reply
	if attr.At(4).Int != 5 || attr.At(0).Int != 0o100644 || len(attr.Items) != 13 {
		t.Fatal(attr)
	}
	link := c.must("stat", b("link"), false, 0).reply
	if string(link.At(11).Bytes) != "a/b" {
		t.Fatal(link)
	}
	if c.must("stat", b("link"), true, 0).reply.At(5).Int != attr.At(5).Int {
		t.Fatal("stat does not follow")
	}
	if got := string(c.must("read", b("a/b"), nil, 1, 3, false).bytes()); got != "ell" {
		t.Fatal(got)
	}
	if got := string(c.must("read", b("link"), nil, 0, -1, true).bytes()); got != "hello" {
		t.Fatal(got)
	}
	if got := string(c.must("readlink", b("link")).reply.Bytes); got != "a/b" {
		t.Fatal(got)
	}
	names := map[string]bool{}
	listing := c.must("list", b(""), 0, false)
	for _, d := range listing.data {
		x, _ := msgpack.Decode(d)
		for _, e := range x.At(1).Items {
			names[string(e.At(0).Bytes)] = true
		}
	}
	if len(names) != 4 || !names["strange\n\xff"] {
		t.Fatal(names)
	}
	many := c.must("stat_many", []any{b("a"), b("nonesuch"), b("a/b")}, false)
	x, _ := msgpack.Decode(many.data[0])
	if items := x.At(1).Items; len(items) != 3 || items[1].At(1).Int != int64(syscall.ENOENT) || items[2].At(2).At(4).Int != 5 {
		t.Fatal(x)
	}
	if n := len(c.must("statvfs", b("a")).reply.Items); n != 10 {
		t.Fatal(n)
	}
	sum := sha256.Sum256([]byte("hello"))
	if got := c.must("hash", b("a/b"), 0, -1, 0).records(t); len(got) != 1 || !bytes.Equal(got[0].Bytes, sum[:]) {
		t.Fatal(got)
	}
	if got := c.must("hash", b("a/b"), 0, -1, 2).records(t); len(got) != 3 {
		t.Fatal(got)
	}
	for _, bad := range []struct {
		errno syscall.Errno
		op    string
		args  []any
	}{
		{syscall.ENOENT, "stat", []any{b("nonesuch"), false, 0}},
		{syscall.ENOTDIR, "stat", []any{b("a/b/c"), false, 0}},
		{syscall.EINVAL, "stat", []any{b("../x"), false, 0}},
		{syscall.EINVAL, "stat", []any{"str", false, 0}},
		{syscall.EINVAL, "stat", []any{}},
		{syscall.EINVAL, "stat", []any{b("a"), 1, 0}},
		{syscall.ENAMETOOLONG, "stat", []any{b(strings.Repeat("n", 256)), false, 0}},
		{syscall.ENAMETOOLONG, "stat", []any{b(strings.Repeat("n/", 2500) + "n"), false, 0}},
		{syscall.EINVAL, "stat", []any{b("a"), false, 3}},
		{syscall.EISDIR, "read", []any{b("a"), nil, 0, -1, false}},
		{syscall.ELOOP, "read", []any{b("link"), nil, 0, -1, false}},
		{syscall.EINVAL, "read", []any{b("fifo"), nil, 0, -1, false}},
		{syscall.EINVAL, "read", []any{b("a/b"), nil, -1, -1, false}},
		{syscall.EINVAL, "read", []any{b("a/b"), []any{1}, 0, -1, false}},
		{syscall.ESTALE, "read", []any{b("a/b"), []any{1, 2, 3, 4, nil}, 0, -1, false}},
		{syscall.ENOTDIR, "list", []any{b("a/b"), 0, false}},
		{syscall.EINVAL, "readlink", []any{b("a/b")}},
		{syscall.EBADF, "pread", []any{77, 0, 1}},
		{syscall.EBADF, "close", []any{77}},
		{syscall.ENODATA, "getxattr", []any{b("a/b"), "user.none"}},
		{syscall.EOPNOTSUPP, "nonesuch", nil},
		{syscall.EINVAL, "detach", nil},
	} {
		if got := c.call(bad.op, bad.args...).errno; got != bad.errno && !(got == syscall.ENOTDIR && bad.errno == syscall.ELOOP) {
			t.Errorf("%s %v: %v, want %v", bad.op, bad.args, got, bad.errno)
		}
	}
}

func TestReadMany(t *testing.T) {
	dir := workspace(t)
	var paths []any
	for i := 0; i < 500; i++ {
		name := fmt.Sprintf("f%d", i)
		write(t, dir+"/"+name, strings.Repeat("x", i*300))
		paths = append(paths, []any{b(name), nil})
	}
	os.Mkdir(dir+"/d", 0o755)
	paths = append(paths, []any{b("d"), nil}, []any{b("none"), nil}, []any{b("f1"), []any{1, 2, 3, 4, nil}})
	c := start(t, dir, options{})
	got := c.must("read_many", paths, 98304, false).records(t)
	if len(got) != 503 {
		t.Fatal(len(got))
	}
	for i, r := range got {
		want := syscall.Errno(0)
		switch {
		case i == 500:
			want = syscall.EINVAL
		case i == 501:
			want = syscall.ENOENT
		case i == 502:
			want = syscall.ESTALE
		case i*300 > 98304:
			want = syscall.EFBIG
		}
		if syscall.Errno(r.At(1).Int) != want || want == 0 && len(r.At(3).Bytes) != i*300 {
			t.Errorf("%d: errno %d, %d bytes", i, r.At(1).Int, len(r.At(3).Bytes))
		}
	}
}

func TestHandlePinsFile(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "old content")
	c := start(t, dir, options{})
	handle := c.must("open", b("f"), nil, false).reply.At(0)
	os.Remove(dir + "/f")
	write(t, dir+"/f", "new")
	if got := string(c.must("pread", handle, 4, 100).bytes()); got != "content" {
		t.Fatal(got)
	}
	c.must("close", handle)
	for i := 0; i < 1024; i++ {
		c.must("open", b("f"), nil, false)
	}
	if got := c.call("open", b("f"), nil, false).errno; got != syscall.EMFILE {
		t.Fatal(got)
	}
}

func TestFreshFilesCarryDigest(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	write(t, dir+"/f", "hello")
	attr := c.must("stat", b("f"), false, 0).reply
	sum := sha256.Sum256([]byte("hello"))
	if !attr.At(12).IsNil() && !bytes.Equal(attr.At(12).Bytes, sum[:]) {
		t.Fatal(attr)
	}
	old := time.Now().Add(-time.Hour)
	os.Chtimes(dir+"/f", old, old)
	for start := time.Now(); ; {
		if attr = c.must("stat", b("f"), false, 0).reply; attr.At(12).IsNil() {
			return
		}
		if time.Since(start) > 5*time.Second {
			t.Fatal("the digest stays")
		}
	}
}

func TestSnapshot(t *testing.T) {
	dir := workspace(t)
	for i := 0; i < 30; i++ {
		for k := 0; k < 20; k++ {
			write(t, fmt.Sprintf("%s/d%d/e%d/f%d", dir, i%7, i, k), "x")
		}
	}
	for i := 0; i < 3000; i++ {
		write(t, fmt.Sprintf("%s/large/%s%d", dir, strings.Repeat("n", 40), i), "")
	}
	c := start(t, dir, options{})
	a := c.must("snapshot", b(""), 0)
	seen := map[string]bool{"": true}
	last := map[string]bool{}
	entries := 0
	for _, r := range a.records(t) {
		path := string(r.At(1).Bytes)
		if !seen[path] {
			t.Fatalf("%s before its parent", path)
		}
		last[path] = r.At(2).Int != 0
		for _, e := range r.At(3).Items {
			seen[filepath.Join(path, string(e.At(0).Bytes))] = true
			entries++
		}
	}
	if want := 7 + 30 + 600 + 1 + 3000; entries != want || a.reply.At(1).Int != int64(want) {
		t.Fatal(entries, want, a.reply)
	}
	for path, ok := range last {
		if !ok {
			t.Fatalf("%s has no last piece", path)
		}
	}
	if n := len(c.must("snapshot", b(""), 1).records(t)); n != 1 {
		t.Fatal(n)
	}
}

func TestXattr(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "x")
	if err := syscall.Setxattr(dir+"/f", "user.test", []byte("value"), 0); err != nil {
		t.Skip("no extended attributes here: ", err)
	}
	c := start(t, dir, options{})
	if got := string(c.must("getxattr", b("f"), "user.test").reply.Bytes); got != "value" {
		t.Fatal(got)
	}
	if got := c.must("listxattr", b("f")).reply; len(got.Items) == 0 {
		t.Fatal(got)
	}
	c.expect(0, []any{1, "setxattr", b("f"), []any{3}, "user.two", b("2"), 0})
	c.expect(0, []any{1, "setxattr", b("f"), []any{3}, "user.test", nil, 0})
	if got := c.call("getxattr", b("f"), "user.test").errno; got != syscall.ENODATA {
		t.Fatal(got)
	}
	// No trouble of the box's, which would stop the journal.
	much := bytes.Repeat([]byte{'v'}, 60_000)
	want := syscall.Errno(0)
	if err := syscall.Setxattr(dir+"/f", "user.much", much, 0); err == syscall.ENOSPC {
		want = syscall.E2BIG
	} else {
		syscall.Removexattr(dir+"/f", "user.much")
	}
	c.expect(want, []any{1, "setxattr", b("f"), []any{3}, "user.much", much, 0})
}

// TestConfinement: nothing outside the root is reached, whatever the links.
func TestConfinement(t *testing.T) {
	for _, without := range []string{"", "no-openat2"} {
		t.Run(without, func(t *testing.T) {
			dir := workspace(t)
			outside := filepath.Dir(dir) + "/outside"
			write(t, outside+"/secret", "secret")
			write(t, dir+"/in/f", "inside")
			os.Symlink(outside, dir+"/out")
			os.Symlink("../outside/secret", dir+"/up")
			os.Symlink("in", dir+"/ok")
			os.Symlink(dir+"/in", dir+"/absolute")
			os.Symlink("loop", dir+"/loop")
			c := start(t, dir, options{env: []string{"DEVBOX_HELPER_FAULT=" + without}})
			for _, path := range []string{"out/secret", "up", "out"} {
				for _, follow := range []bool{false, true} {
					a := c.call("read", b(path), nil, 0, -1, follow)
					if a.errno == 0 || bytes.Contains(a.bytes(), []byte("secret")) {
						t.Errorf("%s follow %v: %v", path, follow, a.errno)
					}
				}
			}
			if got := c.call("stat", b("out/secret"), true, 0).errno; got != syscall.EXDEV {
				t.Error(got)
			}
			if got := c.call("stat", b("loop"), true, 0).errno; got != syscall.ELOOP {
				t.Error(got)
			}
			if got := c.call("stat", b("loop/x"), false, 0).errno; got != syscall.ELOOP && got != syscall.ENOTDIR {
				t.Error(got)
			}
			for _, path := range []string{"ok/f", "absolute/f"} {
				if got := string(c.must("read", b(path), nil, 0, -1, true).bytes()); got != "inside" {
					t.Error(path, got)
				}
				if got := c.call("read", b(path), nil, 0, -1, false).errno; got != syscall.ELOOP && got != syscall.ENOTDIR {
					t.Error(path, got)
				}
			}
			for _, op := range [][]any{
				{1, "put", b("out/new"), []any{0}, 0}, {1, "mkdir", b("out/new"), []any{0}, 0o755, true}, {1, "unlink", b("out/secret"), []any{3}},
				{1, "rename", b("stolen"), []any{0}, b("out/secret"), []any{3}, 0}, {1, "rename", b("out/x"), []any{0}, b("in/f"), []any{3}, 0},
				{1, "link", b("stolen"), []any{0}, b("out/secret"), []any{3}}, {1, "setattr", b("out/secret"), []any{3}, 0o777, nil, nil, nil, nil},
				{1, "copy", b("stolen"), []any{0}, b("out/secret"), []any{3}, true}, {1, "rmtree", b("out/x"), []any{3}},
				{1, "mkdir", b("../x"), []any{0}, 0o755, false}, {1, "symlink", b("out/l"), []any{0}, b("x"), nil},
			} {
				var contents []content
				if op[1] == "put" {
					contents = []content{{"x", 0o644, 1}}
				}
				if errno, _, _ := c.one(op, contents...); errno == 0 {
					t.Errorf("%v succeeded", op)
				}
			}
			entries, _ := os.ReadDir(outside)
			if len(entries) != 1 || read(t, outside+"/secret") != "secret" {
				t.Error(entries)
			}
		})
	}
}

func TestStateInsideIsHidden(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{args: []string{"--state", dir + "/.devbox-helper"}})
	c.expect(0, []any{1, "put", b("f"), []any{0}, 0}, content{"x", 0o644, 1})
	if got := c.must("snapshot", b(""), 0).reply.At(1).Int; got != 1 {
		t.Fatal(got)
	}
	if got := c.call("stat", b(".devbox-helper"), false, 0).errno; got != syscall.ENOENT {
		t.Fatal(got)
	}
	if got := c.call("list", b(".devbox-helper"), 0, false).errno; got != syscall.ENOENT {
		t.Fatal(got)
	}
	c.expect(syscall.EACCES, []any{1, "put", b(".devbox-helper"), []any{0}, 0}, content{"x", 0o644, 1})
	c.expect(syscall.ENOENT, []any{1, "rmtree", b(".devbox-helper"), []any{3}})
}
