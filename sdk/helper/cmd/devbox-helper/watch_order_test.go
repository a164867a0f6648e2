package main_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealos.io/devbox-helper/internal/sys"
)

// TestOwnNameIsNotTakenAway: two files change names and then the directory of one of them is renamed, all by us. The name
// that one of them has by now is none under which we left something; the other one must not be told to be gone for it.
func TestOwnNameIsNotTakenAway(t *testing.T) {
	for _, walk := range []bool{false, true} {
		dir := workspace(t)
		c := start(t, dir, options{})
		c.watch("", walk)
		for round := range 20 {
			name := func(s string) string { return fmt.Sprint(s, round) }
			d, a, other, between, moved := name("d"), name("d")+"/a", name("b"), name("t"), name("moved")
			made, _ := c.apply([]any{
				[]any{1, "mkdir", b(d), []any{0}, 0o755, false},
				[]any{2, "put", b(a), []any{0}, 0}, []any{3, "put", b(other), []any{0}, 1},
			}, text("a"), text("other")).outcomes(t)
			c.must("list", b(d), 0, false)
			done, _ := c.apply([]any{
				[]any{4, "rename", b(between), []any{0}, b(other), c.version(other), 0},
				[]any{5, "rename", b(other), []any{0}, b(a), c.version(a), 0},
				[]any{6, "rename", b(a), []any{0}, b(between), []any{2, 4}, 0},
				[]any{7, "rename", b(moved), []any{0}, b(d), c.version(d), 0},
			}).outcomes(t)
			for _, e := range append(made, done...) {
				if e != 0 {
					t.Fatal(made, done)
				}
			}
			end := name("end")
			write(t, dir+"/"+end, "")
			gone := map[string]bool{}
			for _, e := range c.until(end) {
				if e.At(3).IsNil() {
					gone[string(e.At(1).Bytes)] = true
				}
			}
			if gone[other] || gone[moved] || gone[moved+"/a"] {
				t.Fatal(walk, round, gone)
			}
		}
	}
}

// TestRenamedByUsAndThenInTheBox: what we renamed is renamed again in the box before the watch has told of the first. The
// client knows the second name, and hears that the third one has come of that.
func TestRenamedByUsAndThenInTheBox(t *testing.T) {
	for _, walk := range []bool{false, true} {
		dir := workspace(t)
		c := start(t, dir, options{})
		c.watch("", walk)
		for round := range 20 {
			name := func(s string) string { return fmt.Sprint(s, round) }
			first, ours, theirs := name("first"), name("ours"), name("theirs")
			made, _ := c.apply([]any{
				[]any{1, "mkdir", b(first), []any{0}, 0o755, false},
				[]any{2, "put", b(first + "/f"), []any{0}, 0},
			}, text("f")).outcomes(t)
			c.must("list", b(first), 0, false)
			done, _ := c.apply([]any{
				[]any{3, "rename", b(ours), []any{0}, b(first), c.version(first), 0},
			}).outcomes(t)
			for _, e := range append(made, done...) {
				if e != 0 {
					t.Fatal(made, done)
				}
			}
			if err := os.Rename(dir+"/"+ours, dir+"/"+theirs); err != nil {
				t.Fatal(err)
			}
			end := name("end")
			write(t, dir+"/"+end, "")
			origin, gone := "", map[string]bool{}
			for _, e := range c.until(end) {
				path := string(e.At(1).Bytes)
				gone[path] = e.At(3).IsNil()
				if path == theirs && !e.At(4).IsNil() {
					origin = string(e.At(4).Bytes)
				}
			}
			if origin != ours || !gone[ours] || gone[theirs] || gone[first] {
				t.Fatal(walk, round, origin, gone)
			}
		}
	}
}

// TestWatchConverges: whatever happens, a client that applies the events has the tree that is there.
func TestWatchConverges(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	c.watch("", true)
	for i := 0; i < 300; i++ {
		d := fmt.Sprintf("%s/d%d", dir, i%5)
		switch i % 7 {
		case 0, 1:
			os.MkdirAll(d+"/sub", 0o755)
		case 2, 3:
			os.WriteFile(d+fmt.Sprintf("/sub/f%d", i%11), []byte(fmt.Sprint(i)), 0o644)
		case 4:
			os.Rename(d, fmt.Sprintf("%s/d%d", dir, (i+2)%5))
		case 5:
			os.Rename(fmt.Sprintf("%s/sub/f%d", d, i%11), fmt.Sprintf("%s/g%d", dir, i%3))
		case 6:
			if i%2 == 0 {
				os.RemoveAll(d)
			}
		}
		if i%50 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	write(t, dir+"/end", "")
	have := map[string]int64{}
	below := func(path, dir string) bool { return len(path) > len(dir) && path[:len(dir)+1] == dir+"/" }
	drop := func(path string) {
		for p := range have {
			if p == path || below(p, path) {
				delete(have, p)
			}
		}
	}
	var lastGone map[string]int64
	lastPath := ""
	for done := false; !done; {
		path, _, attr, from := c.next()
		done = path == "end"
		switch {
		case attr.IsNil():
			// Kept until the next event, which may say where it went.
			moved := map[string]int64{}
			for p, size := range have {
				if p == path || below(p, path) {
					moved[p] = size
				}
			}
			drop(path)
			lastGone, lastPath = moved, path
		case !from.IsNil():
			drop(path)
			if string(from.Bytes) == lastPath {
				for p, size := range lastGone {
					have[path+p[len(lastPath):]] = size
				}
			}
			have[path] = attr.At(4).Int
		default:
			have[path] = attr.At(4).Int
		}
	}
	want := map[string]bool{}
	a := c.must("snapshot", b(""), 0)
	for _, r := range a.records(t) {
		for _, e := range r.At(3).Items {
			p := string(e.At(0).Bytes)
			if d := string(r.At(1).Bytes); d != "" {
				p = d + "/" + p
			}
			want[p] = true
			size, known := have[p]
			if !known || e.At(1).At(0).Int&syscall.S_IFMT == syscall.S_IFREG && size != e.At(1).At(4).Int {
				t.Errorf("%s: known %v, size %d, there %d", p, known, size, e.At(1).At(4).Int)
			}
		}
	}
	for p := range have {
		if !want[p] {
			t.Errorf("%s is known but not there", p)
		}
	}
}

// TestEveryRenamedNameIsDecided: renames to and fro within one frame, each of which has a say in what is told of the
// other's names. At the end the client knows of every name what is there.
func TestEveryRenamedNameIsDecided(t *testing.T) {
	for name, renames := range map[string]string{
		"twice over one name":     "dc ac wd",
		"a rotation":              "bc ab wa",
		"a swap":                  "at ba tb",
		"a swap and a write":      "at ba tb wa",
		"there and back":          "at ta wa",
		"a ring of three":         "at ba cb tc wb",
		"over what had been here": "ab cb wa wc",
		"gone at the end":         "ab bc cd xd",
	} {
		t.Run(name, func(t *testing.T) {
			dir := workspace(t)
			for _, n := range "abcd" {
				write(t, dir+"/"+string(n), strings.Repeat("x", int(n)))
			}
			c := start(t, dir, options{})
			c.watch("", true)
			c.cmd.Process.Signal(syscall.SIGSTOP) // so that all of it is in one frame
			for i, r := range strings.Fields(renames) {
				switch r[0] {
				case 'w':
					write(t, dir+"/"+r[1:], strings.Repeat("y", 500+i))
				case 'x':
					os.Remove(dir + "/" + r[1:])
				default:
					os.Rename(dir+"/"+r[:1], dir+"/"+r[1:])
				}
			}
			write(t, dir+"/end", "")
			c.cmd.Process.Signal(syscall.SIGCONT)
			have := map[string]int64{"a": 'a', "b": 'b', "c": 'c', "d": 'd'}
			events := c.until("end")
			for i, e := range events {
				path, from := string(e.At(1).Bytes), e.At(4)
				if !from.IsNil() && (i == 0 || !events[i-1].At(3).IsNil() || string(events[i-1].At(1).Bytes) != string(from.Bytes)) {
					t.Errorf("the rename of %s is not told right after its end", from.Bytes)
				}
				if delete(have, path); !e.At(3).IsNil() && path != "" {
					have[path] = e.At(3).At(4).Int
				}
			}
			for _, path := range []string{"a", "b", "c", "d", "t"} {
				info, err := os.Stat(dir + "/" + path)
				size, known := have[path]
				if known != (err == nil) || known && size != info.Size() {
					t.Errorf("%s: known %v with %d bytes; there %v %v", path, known, size, info, err)
				}
			}
		})
	}
}

// TestDirectoriesChangeWithTheirEntries: inotify is silent about the times of a directory.
// A client knows a directory by the name that it was told last.
func TestARenameIsToldBeforeWhatIsBelow(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/one/sub/f", "x")
	c := start(t, dir, options{})
	c.watch("", true)
	here, there := "one", "two"
	for round := range 20 {
		os.Chmod(dir+"/"+here+"/sub/f", os.FileMode(0o600+round%2*0o44)) // waits, and is told under the new name
		os.Rename(dir+"/"+here, dir+"/"+there)
		marker := fmt.Sprint("marker", round)
		write(t, dir+"/"+marker, "")
		renamed, told := false, false
		for _, e := range c.until(marker) {
			switch string(e.At(1).Bytes) {
			case there:
				renamed = renamed || string(e.At(4).Bytes) == here
			case there + "/sub/f":
				if !renamed {
					t.Fatal("an entry is told of before the rename of its directory")
				}
				told = e.At(3).At(0).Int&0o777 == int64(0o600+round%2*0o44)
			}
		}
		if !renamed || !told {
			t.Fatal(round, renamed, told)
		}
		here, there = there, here
	}
}

// TestOutcomesSayWhichEventsAreOlder: events come up between the operations of a batch, too.
func TestOutcomesSayWhichEventsAreOlder(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	c.watch("", false)
	for i := 1; i <= 3; i++ {
		write(t, fmt.Sprintf("%s/theirs%d", dir, i), "x")
		last := int64(0)
		select {
		case e := <-c.directories: // told of behind the entry
			last = e.At(0).Int
		case <-time.After(10 * time.Second):
			t.Fatal("no event")
		}
		a := c.apply([]any{[]any{1, "mkdir", b(fmt.Sprintf("ours%d", i)), []any{0}, 0o755, false}})
		outcome := a.records(t)[0]
		if got := outcome.At(4).Int; outcome.At(1).Int != 0 || got != last {
			t.Fatalf("%v: event %d, not %d", outcome, got, last)
		}
	}
}

// TestExchangedDirectories: inotify tells of RENAME_EXCHANGE as of two renames, the first of which replaces a directory.
func TestExchangedDirectories(t *testing.T) {
	for _, walk := range []bool{false, true} {
		dir := workspace(t)
		for _, name := range []string{"one", "two"} {
			write(t, dir+"/"+name+"/inner", name)
			write(t, dir+"/"+name+"/sub/deep", name)
		}
		c := start(t, dir, options{})
		c.watch("", walk)
		for _, name := range []string{"one", "two", "one/sub", "two/sub"} {
			c.must("list", b(name), 0, false)
		}
		for round := range 6 {
			if round%3 == 2 { // moves that look the same, but for the directory that was there
				os.RemoveAll(dir + "/empty")
				os.Mkdir(dir+"/empty", 0o755)
				os.Rename(dir+"/one", dir+"/empty")
				os.Rename(dir+"/empty", dir+"/one")
			} else if err := sys.Renameat2(sys.AtFDCWD, dir+"/one", sys.AtFDCWD, dir+"/two", sys.RenameExchange); err != nil {
				t.Fatal(err)
			}
			if round%2 == 1 { // decided before, or together with what follows
				time.Sleep(100 * time.Millisecond)
			}
			size := 10 + round
			missing := map[string]bool{}
			for i, path := range []string{"one/inner", "two/inner", "one/sub/deep", "two/sub/deep"} {
				write(t, dir+"/"+path, strings.Repeat("x", size+100*i))
				missing[fmt.Sprint(path, size+100*i)] = true
			}
			for len(missing) > 0 {
				path, _, attr, _ := c.next()
				if !attr.IsNil() {
					delete(missing, fmt.Sprint(path, attr.At(4).Int))
				}
			}
		}
	}
}
