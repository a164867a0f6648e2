package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealos.io/devbox-helper/internal/wire"
)

// tree describes a directory: paths, kinds, modes, contents, times.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %v", strings.TrimPrefix(path, dir), info.Mode())
		switch {
		case info.Mode().IsRegular():
			line += fmt.Sprintf(" %q %d", read(t, path), info.ModTime().UnixNano()%1e9)
		case info.Mode()&os.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			line += fmt.Sprintf(" %s %d", target, info.ModTime().UnixNano()%1e9)
		}
		lines = append(lines, line)
		return nil
	})
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// scenario is a batch with every kind of operation, over a workspace that it finds prepared.
func scenario(dir string, c *client) ([]any, []content) {
	return []any{
		[]any{1, "mkdir", b("new"), []any{0}, 0o775, false}, // more than the umask leaves
		[]any{2, "put", b("new/file"), []any{0}, 0},
		[]any{3, "put", b("replaced"), c.version("replaced"), 1},
		[]any{4, "put", b(".git/index"), c.version(".git/index"), 2},
		[]any{5, "write", b("inplace"), c.version("inplace"), []any{[]any{1, 3}, []any{5, 4}}, 7, stamp},
		[]any{6, "unlink", b("doomed"), c.version("doomed")},
		[]any{7, "unlink", b("doomed2"), []any{3}},
		[]any{8, "symlink", b("link"), []any{0}, b("target"), stamp},
		[]any{9, "link", b("hard"), []any{0}, b("inplace"), []any{2, 5}},
		[]any{10, "rename", b("new/moved"), []any{0}, b("moveme"), c.version("moveme"), 0},
		[]any{11, "rename", b("over"), c.version("over"), b("mover"), c.version("mover"), 0},
		[]any{12, "rename", b(".git/HEAD"), c.version(".git/HEAD"), b(".git/HEAD.lock"), []any{3}, 0},
		[]any{13, "rename", b("x1"), c.version("x1"), b("x2"), c.version("x2"), 2},
		[]any{14, "setattr", b("mode"), c.version("mode"), 0o600, nil, nil, nil, stamp},
		[]any{15, "mknod", b("fifo"), []any{0}, 0o010600, 0, nil},
		[]any{16, "copy", b("copied"), []any{0}, b("dir"), []any{3}, true},
		[]any{17, "rmtree", b("dir"), []any{3}},
		[]any{18, "rmdir", b("empty"), []any{3}},
		[]any{19, "rename", b("movedir"), []any{0}, b("dir2"), []any{4, c.must("stat", b("dir2"), false, 0).reply.At(5)}, 0},
		[]any{20, "put", b("movedir/late"), []any{0}, 5},
		[]any{21, "put", b("exists"), []any{0}, 6}, // a conflict
		[]any{22, "unlink", b("new/file"), []any{2, 2}},
		[]any{23, "put", b("again"), []any{2, 6}, 7},
		[]any{24, "dirtime", b("new"), []any{3}, stamp},
		[]any{25, "lock", b(".git/ref.lock"), []any{0}, 0o644},
		[]any{26, "write", b(".git/ref.lock"), []any{2, 25}, []any{[]any{0, 8}}, nil, stamp},
		[]any{27, "rename", b(".git/ref"), []any{0}, b(".git/ref.lock"), []any{2, 26}, 0},
	}, []content{text("zero"), text("one"), text("two"), text("AAA"), text("B"), text("late"), text("no"), {"again", 0o4711, stamp}, text("locked")}
}

func prepare(t testing.TB, dir string) {
	for _, name := range []string{"replaced", ".git/index", "inplace", "doomed", "doomed2", "moveme", "over", "mover", ".git/HEAD", ".git/HEAD.lock",
		"x1", "x2", "mode", "dir/a/b", "dir/c", "dir2/inside", "exists"} {
		write(t, dir+"/"+name, "old content of "+name)
		os.Chtimes(dir+"/"+name, time.Unix(1000, 0), time.Unix(1000, 0))
	}
	os.Mkdir(dir+"/empty", 0o755)
}

// TestCrashAnywhere kills the helper at every pass of every point of the apply path. A new helper completes the batch, or
// the client sends it again; either way it is done exactly once, and the answers are the same.
func TestCrashAnywhere(t *testing.T) {
	reference := workspace(t)
	prepare(t, reference)
	c := start(t, reference, options{})
	ops, contents := scenario(reference, c)
	journal, inc := random16(), random16()
	wantErrnos, wantFlags := c.finish(c.applyBegin([]any{journal, inc, 1, 1, 0, nil, false}, ops, nil, contents...)).outcomes(t)
	for i, e := range wantErrnos {
		if e != 0 && i != 20 {
			t.Fatalf("operation %d: %v", i+1, e)
		}
	}
	want := tree(t, reference)
	passes := 0
	for _, point := range []string{"staged", "accepted", "before", "leased", "linked", "changed", "verified", "logged", "finished", "complete", "reply"} {
		for n := 1; ; n++ {
			dir := workspace(t)
			prepare(t, dir)
			c := start(t, dir, options{env: []string{fmt.Sprintf("DEVBOX_HELPER_FAULT=exit:%s:%d", point, n)}})
			ops, contents := scenario(dir, c)
			c.must("attach", journal, 1)
			a := c.finish(c.applyBegin([]any{journal, inc, 1, 1, 0, nil, false}, ops, nil, contents...))
			if a.errno == 0 {
				break // there is no n-th pass
			}
			passes++
			<-c.exited
			again := start(t, dir, options{})
			last := again.must("attach", journal, 2).reply.At(0).Int
			if accepted := point != "staged"; (last == 1) != accepted {
				t.Fatalf("%s %d: last batch %d", point, n, last)
			}
			if last == 1 {
				if got := tree(t, dir); got != want {
					t.Fatalf("%s %d: after recovery\n%s\nwant\n%s", point, n, got, want)
				}
				// One of the names of a file counts as a link of it.
				if left := displaced(dir); left != "" {
					t.Fatalf("%s %d: displaced and not destroyed: %s", point, n, left)
				}
			}
			errnos, flags := again.finish(again.applyBegin([]any{journal, inc, 2, 1, 0, nil, false}, ops, nil, contents...)).outcomes(t)
			if got := tree(t, dir); got != want {
				t.Fatalf("%s %d:\n%s\nwant\n%s", point, n, got, want)
			}
			for i := range errnos {
				if errnos[i] != wantErrnos[i] || flags[i]&1 != wantFlags[i]&1 {
					t.Fatalf("%s %d: operation %d: %v, want %v", point, n, i+1, errnos[i], wantErrnos[i])
				}
			}
			// And on: what the last operation left is still known.
			next := again.finish(again.applyBegin([]any{journal, inc, 2, 2, 1, nil, false}, []any{[]any{30, "unlink", b("again"), []any{2, 23}}}, nil))
			if errnos, _ := next.outcomes(t); errnos[0] != 0 {
				t.Fatalf("%s %d: then %v", point, n, errnos)
			}
			again.in.Close()
			again.wait()
			if left := litter(dir); left != "" {
				t.Fatalf("%s %d: left behind: %s", point, n, left)
			}
		}
	}
	if passes < 100 {
		t.Fatalf("only %d crashes", passes)
	}
	t.Logf("%d crashes", passes)
}

// displaced names what operations have displaced and not destroyed.
func displaced(dir string) string {
	var found []string
	for _, path := range strings.Fields(litter(dir)) {
		if name := filepath.Base(path); strings.Contains(name, "-") && !strings.HasPrefix(name, "leases-") {
			found = append(found, path)
		}
	}
	return strings.Join(found, " ")
}

// litter names what is in the state directory besides logs.
func litter(dir string) string {
	var found []string
	filepath.Walk(filepath.Dir(dir), func(path string, info os.FileInfo, err error) error {
		if path == dir {
			return filepath.SkipDir
		}
		name := filepath.Base(path)
		if err == nil && !info.IsDir() && name != "log" && name != "meta" && name != "lock" && name != "reserve" {
			found = append(found, path)
		}
		return nil
	})
	return strings.Join(found, " ")
}

// TestCrashThenForeignChange: what somebody else changed between crash and recovery is not overwritten.
func TestCrashThenForeignChange(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/f", "base")
	c := start(t, dir, options{env: []string{"DEVBOX_HELPER_FAULT=exit:linked:1"}})
	journal, inc := random16(), random16()
	op := []any{1, "put", b("f"), c.version("f"), 0}
	if a := c.finish(c.applyBegin([]any{journal, inc, 1, 1, 0, nil, false}, []any{op}, nil, text("ours"))); a.errno == 0 {
		t.Fatal("no crash")
	}
	<-c.exited
	write(t, dir+"/f", "foreign")
	c = start(t, dir, options{})
	c.must("attach", journal, 2)
	errnos, flags := c.finish(c.applyBegin([]any{journal, inc, 2, 1, 0, nil, false}, []any{op}, nil, text("ours"))).outcomes(t)
	if errnos[0] != syscall.ESTALE || flags[0]&1 == 0 || read(t, dir+"/f") != "foreign" {
		t.Fatal(errnos, flags, read(t, dir+"/f"))
	}
}

// TestRace has a second actor create, replace and change files while the helper changes the same names. Every content
// that the actor wrote under a name is there until the helper reports that it replaced or removed that very version.
func TestRace(t *testing.T) {
	for _, name := range []string{"plain", ".git/exchanged"} {
		t.Run(name, func(t *testing.T) {
			dir := workspace(t)
			os.Mkdir(dir+"/.git", 0o755)
			c := start(t, dir, options{})
			path := dir + "/" + name
			iterations := 2000
			if testing.Short() {
				iterations = 300
			}
			conflicts := 0
			for i := 0; i < iterations; i++ {
				os.Remove(path)
				foreign := fmt.Sprintf("foreign %d", i)
				kind := i % 4
				if kind != 0 {
					write(t, path, "base")
				}
				var pre []any = []any{0}
				if kind != 0 {
					pre = c.version(name)
				}
				done := make(chan bool)
				go func() {
					// Somewhere into the operation, which takes about half a millisecond.
					for until := time.Now().Add(time.Duration(i*37%601) * time.Microsecond); time.Now().Before(until); {
					}
					done <- act(kind, path, foreign)
				}()
				op := []any{1, "put", b(name), pre, 0}
				var contents []content
				if i%8 >= 4 && kind != 0 {
					op = []any{1, "unlink", b(name), pre}
				} else {
					contents = []content{text(fmt.Sprintf("ours %d", i))}
				}
				errno, conflict, _ := c.one(op, contents...)
				acted := <-done
				now, _ := os.ReadFile(path)
				switch {
				case conflict:
					conflicts++
					if acted && string(now) != foreign {
						t.Fatalf("%d: conflict, but %q is there instead of %q", i, now, foreign)
					}
				case errno != 0:
					t.Fatalf("%d: %v", i, errno)
				case acted && string(now) != foreign && !mayBeReplaced(kind, name):
					t.Fatalf("%d: %v succeeded and %q is gone: %q", i, op[1], foreign, now)
				}
			}
			t.Logf("%d conflicts in %d", conflicts, iterations)
			if left := litter(dir); left != "" {
				t.Fatal("left behind: ", left)
			}
		})
	}
}

// act is what somebody else does; false if it did nothing.
func act(kind int, path, content string) bool {
	switch kind {
	case 0: // create
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return false
		}
		f.WriteString(content)
		f.Close()
	case 1, 2: // replace
		os.WriteFile(path+".tmp", []byte(content), 0o644)
		return os.Rename(path+".tmp", path) == nil
	case 3: // move away and make anew
		if os.Rename(path, path+".away") != nil {
			return false
		}
		os.Remove(path + ".away")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return false
		}
		f.WriteString(content)
		f.Close()
	}
	return true
}

// mayBeReplaced: outside of git directories, an object renamed or made anew between check and rename is destroyed by a
// plain rename over it (publish.go says why it is one). In the exchange's case nothing is.
func mayBeReplaced(kind int, name string) bool {
	return kind != 0 && !strings.HasPrefix(name, ".git/")
}

func TestPingWhileApplying(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	id, a := c.begin("apply", nil)
	c.send(wire.Ping, 0, []byte("echo"))
	select {
	case p := <-c.pongs:
		if string(p.At(0).Bytes) != "echo" || len(p.Items) != 6 || p.At(2).Int <= 0 {
			t.Fatal(p)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no pong")
	}
	c.send(wire.Cancel, id, nil)
	if c.finish(a); a.errno != syscall.ECANCELED {
		t.Fatal(a.errno)
	}
}
