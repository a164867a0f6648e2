package main_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// next returns the next event.
func (c *client) next() (path string, mask int64, attr value, from value) {
	c.t.Helper()
	select {
	case e := <-c.events:
		return string(e.At(1).Bytes), e.At(2).Int, e.At(3), e.At(4)
	case <-time.After(10 * time.Second):
		c.t.Fatal("no event")
	}
	return
}

// until collects events until one for a path, which the test has made after all others.
func (c *client) until(path string) []value {
	c.t.Helper()
	var all []value
	for {
		select {
		case e := <-c.events:
			if string(e.At(1).Bytes) == path {
				return all
			}
			all = append(all, e)
		case <-time.After(10 * time.Second):
			c.t.Fatal("no event for ", path)
		}
	}
}

// watch returns when the watch is active.
func (c *client) watch(path string, walk bool, more ...any) uint32 {
	c.t.Helper()
	id, a, begun := c.watching(append([]any{b(path), walk}, more...)...)
	select {
	case <-begun:
	case <-a.done:
		c.t.Fatal(a.errno)
	case <-time.After(20 * time.Second):
		c.t.Fatal("the watch does not begin")
	}
	return id
}

func (c *client) watching(args ...any) (uint32, *answer, chan struct{}) {
	begun := make(chan struct{})
	id, a := c.beginWith(begun, "watch", args...)
	return id, a, begun
}

func TestWatch(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/sub/deep/old", "x")
	c := start(t, dir, options{})
	c.watch("", true)
	expect := func(path string, present bool, from string) value {
		t.Helper()
		got, _, attr, source := c.next()
		if got != path || attr.IsNil() == present || string(source.Bytes) != from {
			t.Fatalf("event for %s, %v, from %q; want %s", got, attr, source.Bytes, path)
		}
		return attr
	}
	write(t, dir+"/sub/deep/f", "hello")
	if attr := expect("sub/deep/f", true, ""); attr.At(4).Int != 5 {
		t.Fatal(attr)
	}
	os.Chmod(dir+"/sub/deep/f", 0o600)
	expect("sub/deep/f", true, "")
	os.Rename(dir+"/sub/deep/f", dir+"/g")
	expect("sub/deep/f", false, "")
	expect("g", true, "sub/deep/f")
	os.Rename(dir+"/sub/deep", dir+"/moved")
	expect("sub/deep", false, "")
	expect("moved", true, "sub/deep")
	write(t, dir+"/moved/old", "changed")
	expect("moved/old", true, "")
	os.Remove(dir + "/g")
	expect("g", false, "")
	// A directory that appears with content: both its content and what comes later are seen.
	outside := t.TempDir() + "/tree"
	write(t, outside+"/a/b", "x")
	os.Rename(outside, dir+"/tree")
	expect("tree", true, "")
	expect("tree/a", true, "")
	expect("tree/a/b", true, "")
	write(t, dir+"/tree/a/late", "x")
	expect("tree/a/late", true, "")
	os.Rename(dir+"/tree", outside)
	expect("tree", false, "")
	write(t, outside+"/a/b", "not ours any more")
	os.Mkdir(dir+"/made", 0o755)
	expect("made", true, "")
	// Taken again within one frame.
	os.Rename(dir+"/made", dir+"/made2")
	os.Mkdir(dir+"/made", 0o700)
	expect("made", false, "")
	expect("made2", true, "made")
	if attr := expect("made", true, ""); attr.At(0).Int != 0o40700 {
		t.Fatal(attr)
	}
	if got := c.must("stat", b("made"), false, 0).event; got == 0 {
		t.Fatal("a reply without event number")
	}
}

func TestWatchWithoutWalk(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/listed/f", "x")
	write(t, dir+"/not/f", "x")
	c := start(t, dir, options{})
	id := c.watch("", false)
	if got := c.call("watch", b(""), false).errno; got != syscall.EBUSY {
		t.Fatal(got)
	}
	c.must("list", b("listed"), 0, false)
	write(t, dir+"/not/f", "y")
	write(t, dir+"/listed/f", "y")
	write(t, dir+"/end", "")
	events := c.until("end")
	for _, e := range events { // two, when the file was seen empty
		if string(e.At(1).Bytes) != "listed/f" {
			t.Fatal(events)
		}
	}
	if len(events) == 0 {
		t.Fatal("not told of what was listed")
	}
	c.must("snapshot", b(""), 0)
	write(t, dir+"/not/f", "z")
	if path, _, _, _ := c.next(); path != "not/f" {
		t.Fatal(path)
	}
	c.send(9, id, nil)
}

func TestOwnChangesAreNotReported(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	c.watch("", true)
	for round := 0; round < 5; round++ {
		var ops []any
		var contents []content
		for i := 0; i < 200; i++ {
			name := fmt.Sprintf("d%d/f%d", round, i)
			ops = append(ops, []any{10 + 4*i, "put", b(name), []any{0}, i})
			contents = append(contents, text("x"))
			switch i % 4 {
			case 1:
				ops = append(ops, []any{11 + 4*i, "unlink", b(name), []any{2, 10 + 4*i}})
			case 2:
				ops = append(ops, []any{11 + 4*i, "rename", b(name + "r"), []any{0}, b(name), []any{2, 10 + 4*i}, 0})
			case 3:
				ops = append(ops, []any{11 + 4*i, "setattr", b(name), []any{2, 10 + 4*i}, 0o600, nil, nil, nil, 5})
			}
		}
		ops = append([]any{[]any{1, "mkdir", b(fmt.Sprintf("d%d", round)), []any{0}, 0o755, false}}, ops...)
		errnos, _ := c.apply(ops, contents...).outcomes(t)
		for i, e := range errnos {
			if e != 0 {
				t.Fatal(ops[i], e)
			}
		}
	}
	if err := os.Mkdir(dir+"/end", 0o755); err != nil { // told of once, unlike a file that is made and then written
		t.Fatal(err)
	}
	if events := c.until("end"); len(events) != 0 {
		t.Fatalf("%d events, such as %v", len(events), events[0])
	}
	// A foreign change right behind ours is reported.
	c.expect(0, []any{1, "put", b("f"), []any{0}, 0}, text("ours"))
	write(t, dir+"/f", "foreign")
	if path, _, attr, _ := c.next(); path != "f" || attr.At(4).Int != 7 {
		t.Fatal(path, attr)
	}
}

func TestDirectoriesChangeWithTheirEntries(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/sub/f", "x")
	c := start(t, dir, options{})
	c.watch("", true)
	for _, change := range []func(){
		func() { write(t, dir+"/sub/g", "") },
		func() { os.Remove(dir + "/sub/g") },
		func() { os.Mkdir(dir+"/sub/d", 0o700) },
		func() { os.Rename(dir+"/sub/d", dir+"/sub/e") },
	} {
		change()
		info, _ := os.Stat(dir + "/sub")
		for {
			select {
			case e := <-c.directories:
				if string(e.At(1).Bytes) != "sub" {
					t.Fatal(e)
				}
				if now := e.At(3); now.At(6).Int != info.ModTime().UnixNano() ||
					now.At(1).Int != int64(info.Sys().(*syscall.Stat_t).Nlink) {
					continue // of a look before the change was complete
				}
			case <-time.After(10 * time.Second):
				t.Fatal("nothing is told of the directory")
			}
			break
		}
	}
}

// TestEventsWhileTheClientDoesNotRead: things go on being coalesced, and nothing is lost.
func TestEventsWhileTheClientDoesNotRead(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	c.watch("", true)
	for i := 0; i < 2000; i++ {
		write(t, fmt.Sprintf("%s/f%d", dir, i%100), fmt.Sprint(i))
	}
	write(t, dir+"/end", "")
	last := map[string]int64{}
	for _, e := range c.until("end") {
		last[string(e.At(1).Bytes)] = e.At(3).At(4).Int
	}
	if len(last) != 100 {
		t.Fatal(len(last))
	}
}

func TestRootThatDisappears(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	c.watch("", true)
	os.RemoveAll(dir)
	for {
		path, mask, _, _ := c.next()
		if path == "" && mask == 0x2000 {
			break
		}
	}
	if got := c.call("stat", b("x"), false, 0).errno; got != syscall.ENOENT {
		t.Fatal(got)
	}
	if a := c.apply([]any{[]any{1, "mkdir", b("d"), []any{0}, 0o755, false}}); a.errno == 0 {
		if errnos, _ := a.outcomes(t); errnos[0] != syscall.ENOENT {
			t.Fatal(errnos)
		}
	}
}
