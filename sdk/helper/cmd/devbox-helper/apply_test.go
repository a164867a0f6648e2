// What each kind of operation does, one test beside the other: crashes, leases and restarts have files of their own.
package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const stamp = 1_700_000_000_123_456_789

func text(s string) content { return content{s, 0o644, stamp} }

func TestApplyKinds(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	attr := c.expect(0, []any{1, "put", b("f"), []any{0}, 0}, content{"hello", 0o4755, stamp})
	info, _ := os.Stat(dir + "/f")
	if info.ModTime().UnixNano() != stamp || info.Mode()&os.ModeSetuid == 0 || info.Mode().Perm() != 0o755 || attr.At(12).IsNil() {
		t.Fatal(info.ModTime(), info.Mode(), attr)
	}
	c.expect(0, []any{1, "dirtime", b(""), []any{3}, 1_234_567_890})
	c.expect(0, []any{1, "put", b("f"), version(attr), 0}, content{"other", 0o600, -1})
	if info, _ = os.Stat(dir); info.ModTime().UnixNano() != 1_234_567_890 {
		t.Fatal("a file was rewritten, and its directory has another time: ", info.ModTime())
	}
	if info, _ = os.Stat(dir + "/f"); info.ModTime().UnixNano() != -1 || read(t, dir+"/f") != "other" {
		t.Fatal(info.ModTime())
	}
	c.expect(0, []any{1, "mkdir", b("d/e/f"), []any{3}, 0o1777, true})
	c.expect(0, []any{1, "mkdir", b("d/e/f"), []any{3}, 0o755, true})
	if info, _ = os.Stat(dir + "/d/e/f"); info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Fatal(info.Mode())
	}
	c.expect(0, []any{1, "symlink", b("l"), []any{0}, b("f"), 77})
	if info, _ = os.Lstat(dir + "/l"); info.ModTime().UnixNano() != 77 {
		t.Fatal(info.ModTime())
	}
	c.expect(0, []any{1, "symlink", b("l"), c.version("l"), b("elsewhere"), nil})
	if target, _ := os.Readlink(dir + "/l"); target != "elsewhere" {
		t.Fatal(target)
	}
	c.expect(0, []any{1, "put", b("l"), c.version("l"), 0}, text("now a file"))
	attr = c.expect(0, []any{1, "link", b("hard"), []any{0}, b("f"), c.version("f")})
	write(t, dir+"/equal", read(t, dir+"/l"))
	c.expect(0, []any{1, "link", b("equal"), []any{0}, b("l"), c.version("l")})
	c.expect(syscall.EEXIST, []any{1, "link", b("equal"), []any{0}, b("f"), c.version("f")})
	os.Remove(dir + "/equal")
	if attr.At(1).Int != 2 {
		t.Fatal(attr)
	}
	c.expect(0, []any{1, "mknod", b("fifo"), []any{0}, 0o010640, 0, nil})
	if info, _ = os.Stat(dir + "/fifo"); info.Mode() != os.ModeNamedPipe|0o640 {
		t.Fatal(info.Mode())
	}
	c.expect(0, []any{1, "write", b("f"), c.version("f"), []any{[]any{2, 0}, []any{10, 1}}, nil, 5}, text("XY"), text("end"))
	if got := read(t, dir+"/hard"); got != "otXYr\x00\x00\x00\x00\x00end" {
		t.Fatalf("%q", got)
	}
	c.expect(0, []any{1, "write", b("f"), []any{3}, []any{}, 3, nil})
	if got := read(t, dir+"/f"); got != "otX" {
		t.Fatal(got)
	}
	os.Chmod(dir+"/f", 0o400)
	c.expect(0, []any{1, "write", b("f"), []any{3}, []any{[]any{0, 0}}, nil, nil}, text("R"))
	c.expect(0, []any{1, "rename", b("d/moved"), []any{0}, b("f"), c.version("f"), 0})
	c.expect(0, []any{1, "rename", b("d/moved"), c.version("d/moved"), b("l"), c.version("l"), 0})
	if read(t, dir+"/d/moved") != "now a file" {
		t.Fatal("not replaced")
	}
	c.expect(0, []any{1, "rename", b("d/moved"), []any{3}, b("hard"), []any{3}, 2})
	if read(t, dir+"/hard") != "now a file" {
		t.Fatal("not exchanged")
	}
	c.expect(0, []any{1, "setattr", b("hard"), c.version("hard"), 0o640, nil, nil, 11, 12})
	var st syscall.Stat_t
	syscall.Stat(dir+"/hard", &st)
	if st.Mode&0o7777 != 0o640 || st.Atim.Nano() != 11 || st.Mtim.Nano() != 12 {
		t.Fatal(st)
	}
	c.expect(0, []any{1, "setattr", b(""), []any{3}, 0o750, nil, nil, nil, nil})
	c.expect(0, []any{1, "dirtime", b("d"), []any{3}, time.Now().Add(time.Hour).UnixNano()})
	c.expect(0, []any{1, "dirtime", b("nonesuch"), []any{3}, 1})
	write(t, dir+"/tree/a/b", "deep")
	os.Symlink("b", dir+"/tree/a/l")
	c.expect(0, []any{1, "copy", b("copied"), []any{0}, b("tree"), []any{3}, true})
	if read(t, dir+"/copied/a/l") != "deep" {
		t.Fatal("not copied")
	}
	c.expect(0, []any{1, "rmtree", b("tree"), []any{3}})
	c.expect(0, []any{1, "unlink", b("hard"), c.version("hard")})
	c.expect(0, []any{1, "mkdir", b("empty"), []any{0}, 0o700, false})
	c.expect(0, []any{1, "rmdir", b("empty"), c.version("empty")})
	left, _ := os.ReadDir(filepath.Dir(dir))
	for _, e := range left {
		inside, _ := os.ReadDir(filepath.Dir(dir) + "/" + e.Name())
		if e.Name() != "work" && len(inside) != 1 {
			t.Errorf("left in the state directory: %v", inside)
		}
	}
}

func TestApplyErrors(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "content")
	write(t, dir+"/full/x", "")
	os.Mkdir(dir+"/empty", 0o755)
	c := start(t, dir, options{})
	stale := []any{1, 1, 2, 3, 4, nil}
	for _, k := range []struct {
		errno    syscall.Errno
		conflict bool
		op       []any
	}{
		{syscall.EEXIST, true, []any{1, "put", b("f"), []any{0}, 0}},
		{syscall.ESTALE, true, []any{1, "put", b("f"), stale, 0}},
		{syscall.ENOENT, true, []any{1, "put", b("none"), stale, 0}},
		{syscall.ENOENT, false, []any{1, "put", b("none/x"), []any{0}, 0}},
		{syscall.ENOENT, true, []any{1, "put", b("none/x"), stale, 0}},
		{syscall.ENOTDIR, false, []any{1, "put", b("f/x"), []any{0}, 0}},
		{syscall.EISDIR, false, []any{1, "put", b("full"), []any{3}, 0}},
		{syscall.EBUSY, false, []any{1, "put", b(""), []any{3}, 0}},
		{syscall.EINVAL, false, []any{1, "put", b("a//b"), []any{0}, 0}},
		{syscall.ENAMETOOLONG, false, []any{1, "put", b(strings.Repeat("n", 256)), []any{0}, 0}},
		{syscall.EEXIST, true, []any{1, "mkdir", b("f"), []any{0}, 0o755, false}},
		{syscall.EEXIST, true, []any{1, "symlink", b("f"), []any{0}, b("x"), nil}},
		{syscall.EEXIST, true, []any{1, "mknod", b("f"), []any{0}, 0o010600, 0, nil}},
		{syscall.EEXIST, true, []any{1, "link", b("full"), []any{0}, b("f"), []any{3}}},
		{syscall.ENOENT, false, []any{1, "link", b("new"), []any{0}, b("none"), []any{3}}},
		{syscall.EPERM, false, []any{1, "link", b("new"), []any{0}, b("full"), []any{3}}},
		{syscall.EISDIR, false, []any{1, "unlink", b("full"), []any{3}}},
		{syscall.ENOENT, false, []any{1, "unlink", b("none"), []any{3}}},
		{syscall.ESTALE, true, []any{1, "unlink", b("f"), stale}},
		{syscall.ENOTEMPTY, false, []any{1, "rmdir", b("full"), []any{3}}},
		{syscall.ENOTDIR, false, []any{1, "rmdir", b("f"), []any{3}}},
		{syscall.ESTALE, true, []any{1, "rmdir", b("empty"), []any{4, 1}}},
		{syscall.ENOTDIR, false, []any{1, "rmtree", b("f"), []any{3}}},
		{syscall.ENOENT, false, []any{1, "rename", b("new"), []any{0}, b("none"), []any{3}, 0}},
		{syscall.ENOENT, true, []any{1, "rename", b("new"), []any{0}, b("none"), stale, 0}},
		{syscall.ESTALE, true, []any{1, "rename", b("new"), []any{0}, b("f"), stale, 0}},
		{syscall.EEXIST, true, []any{1, "rename", b("full"), []any{0}, b("f"), []any{3}, 0}},
		{syscall.EEXIST, false, []any{1, "rename", b("full"), []any{3}, b("f"), []any{3}, 1}},
		{syscall.ENOTEMPTY, false, []any{1, "rename", b("full"), []any{3}, b("empty"), []any{3}, 0}},
		{syscall.EINVAL, false, []any{1, "rename", b("full/y"), []any{0}, b("full"), []any{3}, 0}},
		{syscall.ENOENT, false, []any{1, "rename", b("none"), []any{3}, b("f"), []any{3}, 2}},
		{syscall.ENOENT, false, []any{1, "setattr", b("none"), []any{3}, 0o600, nil, nil, nil, nil}},
		{syscall.ESTALE, true, []any{1, "setattr", b("f"), stale, 0o600, nil, nil, nil, nil}},
		{syscall.EISDIR, false, []any{1, "write", b("full"), []any{3}, []any{}, 0, nil}},
		{syscall.ESTALE, true, []any{1, "write", b("f"), stale, []any{}, 0, nil}},
		{syscall.EISDIR, false, []any{1, "copy", b("new"), []any{0}, b("full"), []any{3}, false}},
		{syscall.EEXIST, true, []any{1, "copy", b("f"), []any{0}, b("full"), []any{3}, true}},
		{syscall.ESTALE, true, []any{2, "unlink", b("f"), []any{2, 1}}},
	} {
		var contents []content
		if k.op[1] == "put" {
			contents = []content{text("x")}
		}
		errno, conflict, attr := c.one(k.op, contents...)
		if errno != k.errno || conflict != k.conflict {
			t.Errorf("%v: %v conflict %v, want %v %v", k.op, errno, conflict, k.errno, k.conflict)
		}
		if conflict && attr.IsNil() != (errno == syscall.ENOENT) {
			t.Errorf("%v: conflict with %v", k.op, attr)
		}
	}
	if read(t, dir+"/f") != "content" {
		t.Error("f was changed")
	}
	for _, ops := range [][]any{
		{[]any{1, "nonesuch", b("x"), []any{3}}}, {[]any{1, "put", "str", []any{3}, 0}}, {[]any{1, "put", b("x"), []any{9}, 0}}, {5},
		{[]any{2, "unlink", b("x"), []any{3}}, []any{1, "unlink", b("x"), []any{3}}}, {[]any{1, "rename", b("x"), []any{0}, b("y"), []any{3}, 4}},
		{[]any{1, "mkdir", b("x"), []any{0}}}, {[]any{1, "put", b("x"), []any{1, 2}, 0}}, {[]any{}},
	} {
		if got := c.apply(ops).errno; got != syscall.EINVAL {
			t.Errorf("%v: %v", ops, got)
		}
	}
}

func TestEqualContentIsNoConflict(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "same")
	os.Chmod(dir+"/f", 0o600)
	c := start(t, dir, options{})
	before := c.version("f")
	c.expect(0, []any{1, "put", b("f"), []any{0}, 0}, text("same"))
	if info, _ := os.Stat(dir + "/f"); info.Mode().Perm() != 0o600 {
		t.Fatal("the mode was changed")
	}
	// The file is rewritten with the same content: the digest says that it is the version meant.
	old := c.expect(0, []any{1, "put", b("g"), []any{0}, 0}, text("base"))
	write(t, dir+"/g", "base")
	c.expect(0, []any{1, "put", b("g"), version(old), 0}, text("next"))
	_ = before
}

func TestPreconditionsOnOwnOperations(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	a := c.apply([]any{
		[]any{1, "put", b("a"), []any{0}, 0},
		[]any{2, "rename", b("b"), []any{0}, b("a"), []any{2, 1}, 0},
		[]any{3, "put", b("b"), []any{2, 2}, 1},
		[]any{4, "link", b("c"), []any{0}, b("b"), []any{2, 3}},
		[]any{5, "unlink", b("b"), []any{2, 4}},
		[]any{6, "put", b("b"), []any{2, 5}, 2}, // as the unlink left it: absent
		[]any{7, "mkdir", b("d"), []any{0}, 0o755, false},
		[]any{8, "put", b("d/x"), []any{0}, 3},
		[]any{9, "unlink", b("d/x"), []any{2, 8}},
		[]any{10, "rmdir", b("d"), []any{2, 7}},
		[]any{11, "unlink", b("nonesuch"), []any{3}},
		[]any{12, "put", b("never"), []any{2, 11}, 4},
		[]any{13, "put", b("never"), []any{2, 12}, 5},
		[]any{14, "put", b("e"), []any{0}, 6},
		[]any{15, "rename", b("e"), []any{2, 14}, b("b"), []any{2, 6}, 2},
		[]any{16, "setattr", b("b"), []any{2, 15}, 0o600, nil, nil, nil, nil},
	}, text("1"), text("2"), text("3"), text("4"), text("5"), text("6"), text("7"))
	errnos, _ := a.outcomes(t)
	want := make([]syscall.Errno, 16)
	want[10], want[11], want[12] = syscall.ENOENT, syscall.ECANCELED, syscall.ECANCELED
	if fmt.Sprint(errnos) != fmt.Sprint(want) {
		t.Fatal(errnos)
	}
	if read(t, dir+"/b") != "7" || read(t, dir+"/c") != "2" || read(t, dir+"/e") != "3" {
		t.Fatal("contents")
	}
}

func TestCutStreamChangesNothing(t *testing.T) {
	dir := workspace(t)
	journal, inc := random16(), random16()
	whole := archive(t, []any{[]any{1, "mkdir", b("d"), []any{0}, 0o755, false}, []any{2, "put", b("d/f"), []any{0}, 0}}, nil, []content{text("x")})
	for cut := 0; cut <= len(whole); cut += 256 {
		c := start(t, dir, options{})
		id, _ := c.begin("apply", journal, inc, 1, 1, 0, nil, false)
		c.data(id, whole[:cut])
		c.in.Close()
		if status := c.wait(); status != 0 {
			t.Fatal(status)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Fatal(cut, entries)
		}
	}
	c := start(t, dir, options{})
	id, a := c.begin("apply", journal, inc, 1, 1, 0, nil, false)
	c.data(id, whole[:1000])
	c.send(9, id, nil)
	if c.finish(a); a.errno != syscall.ECANCELED {
		t.Fatal(a.errno)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Fatal(entries)
	}
}

func TestBatchesInOrderAndReplayed(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	journal, inc := random16(), random16()
	c.must("attach", journal, 1)
	send := func(batch, acked int, op []any, x string) *answer {
		return c.applyBegin([]any{journal, inc, 1, batch, acked, nil, false}, []any{op}, nil, text(x))
	}
	// The second and third are sent before the first has arrived whole.
	first := archive(t, []any{[]any{1, "put", b("f"), []any{0}, 0}}, nil, []content{text("1")})
	id, one := c.begin("apply", journal, inc, 1, 7, 0, nil, false)
	c.data(id, first[:600])
	two := send(8, 0, []any{2, "put", b("f"), []any{2, 1}, 0}, "2")
	three := send(9, 0, []any{3, "put", b("f"), []any{2, 2}, 0}, "3")
	_, stat := c.begin("stat", b("f"), false, 9)
	c.must("stat", b(""), false, 0) // all of that has arrived
	c.data(id, first[600:])
	c.send(5, id, nil)
	for _, a := range []*answer{one, two, three} {
		if errnos, _ := c.finish(a).outcomes(t); errnos[0] != 0 {
			t.Fatal(errnos)
		}
	}
	if c.finish(stat); stat.errno != 0 || read(t, dir+"/f") != "3" {
		t.Fatal(stat.errno)
	}
	again := c.finish(send(8, 0, []any{2, "put", b("f"), []any{2, 1}, 0}, "2"))
	if errnos, flags := again.outcomes(t); errnos[0] != 0 || flags[0] != 2 || read(t, dir+"/f") != "3" {
		t.Fatal(errnos, flags)
	}
	if a := c.finish(send(20, 0, []any{9, "unlink", b("f"), []any{3}}, "")); a.errno != syscall.EINVAL && a.errno != syscall.ECANCELED {
		t.Fatal(a.errno)
	}
	other := c.finish(c.applyBegin([]any{journal, random16(), 1, 9, 0, nil, false}, []any{}, nil))
	if other.errno != syscall.ESTALE {
		t.Fatal(other.errno)
	}
	if got := c.must("sync").reply.Int; got != 9 {
		t.Fatal(got)
	}
	c.finish(c.applyBegin([]any{journal, inc, 1, 10, 9, nil, false}, []any{}, []any{b("f"), b("gone")}))
	if a := c.finish(send(8, 9, []any{2, "unlink", b("f"), []any{3}}, "")); a.errno == 0 {
		t.Fatal("an acknowledged batch was replayed")
	}
	c.must("detach", journal)
}

func TestGenerations(t *testing.T) {
	dir := workspace(t)
	journal, inc := random16(), random16()
	old, young := start(t, dir, options{}), start(t, dir, options{})
	old.must("attach", journal, 1)
	a := old.finish(old.applyBegin([]any{journal, inc, 1, 1, 0, nil, false}, []any{[]any{1, "put", b("f"), []any{0}, 0}}, nil, text("x")))
	if a.errno != 0 {
		t.Fatal(a.errno)
	}
	if got := young.must("attach", journal, 2).reply.At(0).Int; got != 1 {
		t.Fatal(got)
	}
	a = old.finish(old.applyBegin([]any{journal, inc, 1, 2, 0, nil, false}, []any{[]any{2, "put", b("g"), []any{0}, 0}}, nil, text("x")))
	if a.errno != syscall.ESTALE || old.wait() != 4 {
		t.Fatal(a.errno, old.status)
	}
	if _, err := os.Stat(dir + "/g"); err == nil {
		t.Fatal("the older generation applied")
	}
	if got := young.call("attach", journal, 1).errno; got != syscall.ESTALE {
		t.Fatal(got)
	}
	a = young.finish(young.applyBegin([]any{journal, inc, 2, 2, 0, nil, false}, []any{[]any{2, "unlink", b("f"), []any{2, 1}}}, nil))
	if errnos, _ := a.outcomes(t); errnos[0] != 0 {
		t.Fatal(errnos)
	}
}

// TestTrouble: a full disk stops the journal until the client resumes it.
func TestTrouble(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "small")
	os.Mkdir(dir, 0o755)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("mounting is not permitted: ", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	root := dir + "/work"
	os.Mkdir(root, 0o755)
	c := start(t, root, options{})
	journal, inc := random16(), random16()
	batch := func(n int, resume any, bypass bool, ops []any, contents ...content) *answer {
		return c.finish(c.applyBegin([]any{journal, inc, 1, n, 0, resume, bypass}, ops, nil, contents...))
	}
	c.must("attach", journal, 1)
	write(t, root+"/target", "")
	write(t, root+"/ballast", strings.Repeat("x", 3<<20))
	// Staging itself has no room: nothing of it is applied.
	if a := batch(1, nil, false, []any{[]any{1, "put", b("f"), []any{0}, 0}}, text(strings.Repeat("x", 900_000))); a.errno != syscall.ENOSPC {
		t.Fatal(a.errno)
	}
	// Staged, but not twice: the write in place finds no room.
	big := text(strings.Repeat("y", 450_000))
	errnos, _ := batch(1, nil, false, []any{
		[]any{1, "write", b("target"), []any{3}, []any{[]any{0, 0}}, nil, nil}, []any{2, "mkdir", b("d"), []any{0}, 0o755, false},
	}, big).outcomes(t)
	if errnos[0] != syscall.ENOSPC || errnos[1] != syscall.ECANCELED {
		t.Fatal(errnos)
	}
	errnos, _ = batch(2, nil, false, []any{[]any{3, "mkdir", b("e"), []any{0}, 0o755, false}}).outcomes(t)
	if errnos[0] != syscall.ECANCELED {
		t.Fatal(errnos)
	}
	// To the last page.
	filler, _ := os.Create(dir + "/filler")
	for err := error(nil); err == nil; {
		_, err = filler.Write(make([]byte, 4096))
	}
	filler.Close()
	errnos, _ = batch(3, nil, true, []any{[]any{4, "unlink", b("ballast"), []any{3}}}).outcomes(t)
	if errnos[0] != 0 {
		t.Fatal(errnos)
	}
	c.in.Close()
	c.wait()
	c = start(t, root, options{}) // the trouble is remembered
	c.must("attach", journal, 1)
	errnos, _ = batch(4, nil, false, []any{[]any{5, "mkdir", b("e"), []any{0}, 0o755, false}}).outcomes(t)
	if errnos[0] != syscall.ECANCELED {
		t.Fatal(errnos)
	}
	errnos, _ = batch(5, 1, false, []any{
		[]any{1, "write", b("target"), []any{3}, []any{[]any{0, 0}}, nil, nil}, []any{2, "mkdir", b("d"), []any{0}, 0o755, false},
		[]any{3, "mkdir", b("e"), []any{2, 2, inc}, 0o755, false},
	}, big).outcomes(t)
	if errnos[0] != 0 || errnos[1] != 0 {
		t.Fatal(errnos)
	}
}

func TestNestedMount(t *testing.T) {
	dir := workspace(t)
	os.Mkdir(dir+"/mnt", 0o755)
	if err := syscall.Mount("tmpfs", dir+"/mnt", "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("mounting is not permitted: ", err)
	}
	defer syscall.Unmount(dir+"/mnt", syscall.MNT_DETACH)
	c := start(t, dir, options{})
	attr := c.expect(0, []any{1, "put", b("mnt/f"), []any{0}, 0}, text("x"))
	c.expect(0, []any{1, "put", b("mnt/f"), version(attr), 0}, text("y"))
	if info, _ := os.Stat(dir + "/mnt/f"); read(t, dir+"/mnt/f") != "y" || info.ModTime().UnixNano() != stamp {
		t.Fatal("content")
	}
	c.expect(0, []any{1, "copy", b("mnt/g"), []any{0}, b("mnt/f"), []any{3}, false})
	c.expect(0, []any{1, "unlink", b("mnt/f"), c.version("mnt/f")})
	c.expect(syscall.EXDEV, []any{1, "rename", b("g"), []any{0}, b("mnt/g"), []any{3}, 0})
	if entries, _ := os.ReadDir(dir + "/mnt"); len(entries) != 1 {
		t.Fatal(entries)
	}
}

func TestReadOnlyWorkspace(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "x")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_RDONLY, ""); err != nil {
		t.Skip("mounting is not permitted: ", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	c := start(t, dir, options{})
	c.must("list", b(""), 0, false)
	if a := c.apply([]any{[]any{1, "mkdir", b("d"), []any{0}, 0o755, false}}); a.errno != syscall.EROFS {
		t.Fatal(a.errno)
	}
}

// tar makes placeholders of mode 0 and removes them a moment later: the digest of a fresh version cannot be compared then.
func TestFreshFileThatCannotBeReadAgain(t *testing.T) {
	dir := workspace(t)
	o := options{}
	if os.Getuid() == 0 {
		for _, p := range []string{dir, dir + "/..", dir + "/../.."} {
			os.Chmod(p, 0o755)
		}
		os.Chown(dir, 65534, 65534)
		o.args = []string{"--user", "65534"}
	}
	c := start(t, dir, o)
	left := c.expect(0, []any{1, "put", b("f"), []any{0}, 0}, content{"", 0, stamp})
	c.expect(0, []any{1, "unlink", b("f"), version(left)})
}

func TestPutKeepsUserAttributes(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "old")
	if err := syscall.Setxattr(dir+"/f", "user.note", []byte("kept"), 0); err != nil {
		t.Skip("no user attributes on this file system: ", err)
	}
	c := start(t, dir, options{})
	c.expect(0, []any{1, "put", b("f"), []any{3}, 0}, text("new"))
	value := make([]byte, 10)
	n, err := syscall.Getxattr(dir+"/f", "user.note", value)
	if err != nil || string(value[:n]) != "kept" || read(t, dir+"/f") != "new" {
		t.Fatal(n, err)
	}
}
