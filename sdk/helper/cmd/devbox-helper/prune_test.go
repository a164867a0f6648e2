package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// watches counts what the helper has told inotify to watch.
func (c *client) watches() int {
	c.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fdinfo", c.cmd.Process.Pid)
	infos, err := os.ReadDir(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	count := 0
	for _, info := range infos {
		content, _ := os.ReadFile(filepath.Join(dir, info.Name())) // it may have been closed meanwhile
		count += strings.Count(string(content), "inotify wd:")
	}
	return count
}

func leave(base string, names, directories []string) []any {
	bins := func(texts []string) []any {
		all := []any{}
		for _, text := range texts {
			all = append(all, b(text))
		}
		return all
	}
	return []any{b(base), bins(names), bins(directories)}
}

// records reads a snapshot: for each directory that was read the names in it, in order.
func records(t *testing.T, a *answer) map[string]string {
	t.Helper()
	found := map[string][]string{}
	for _, r := range a.records(t) {
		path := string(r.At(1).Bytes)
		found[path] = append(found[path], "")[:len(found[path])]
		for _, e := range r.At(3).Items {
			found[path] = append(found[path], string(e.At(0).Bytes))
		}
	}
	joined := map[string]string{}
	for path, names := range found {
		slices.Sort(names)
		joined[path] = strings.Join(names, " ")
	}
	return joined
}

func fill(t *testing.T, dir string) {
	for _, path := range []string{"node_modules/a/b/f", "src/node_modules/c/f", "src/deep/f", "target/x/f", "src/target/f", "src/t.log"} {
		write(t, dir+"/"+path, "x")
	}
}

func TestSnapshotLeavesOut(t *testing.T) {
	dir := workspace(t)
	fill(t, dir)
	c := start(t, dir, options{})
	got := records(t, c.must("snapshot", b(""), 0, leave("", []string{"node_modules", "*.log"}, []string{"/target"})))
	want := map[string]string{"": "node_modules src target", "src": "deep node_modules t.log target", "src/deep": "f", "src/target": "f"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatal(got)
	}
	// Patterns begin at the base; what is not below it is read.
	got = records(t, c.must("snapshot", b(""), 0, leave("src", nil, []string{"node_modules", "/target"})))
	if _, read := got["node_modules/a"]; !read || got["src/node_modules"] != "" || got["src/target"] != "" || got["target"] != "x" {
		t.Fatal(got)
	}
	// One that is asked for itself is read.
	if got = records(t, c.must("snapshot", b("target"), 0, leave("", nil, []string{"/target"}))); got["target/x"] != "f" {
		t.Fatal(got)
	}
	for _, nonsense := range []any{
		5, []any{b("")[:0], 7}, leave("../x", nil, nil), leave("", []string{"["}, nil), leave("", nil, []string{"a//b"}),
		[]any{b(""), []any{"text"}}, []any{"text"},
	} {
		if errno := c.call("snapshot", b(""), 0, nonsense).errno; errno != syscall.EINVAL {
			t.Fatal(nonsense, errno)
		}
	}
}

func TestWatchLeavesOut(t *testing.T) {
	dir := workspace(t)
	fill(t, dir)
	for i := range 100 {
		os.MkdirAll(fmt.Sprintf("%s/node_modules/p%d/lib", dir, i), 0o755)
	}
	c := start(t, dir, options{})
	c.watch("", true)
	if got := c.watches(); got < 200 {
		t.Fatal(got, "watches: nothing was left out, so all of it is watched")
	}
	c = start(t, dir, options{})
	c.watch("", true, leave("", []string{"node_modules", "*.log"}, []string{"target"}))
	if got := c.watches(); got != 3 { // the root, src, src/deep
		t.Fatal(got)
	}

	write(t, dir+"/node_modules/a/new", "x")
	write(t, dir+"/target/new", "x")
	write(t, dir+"/src/t.log", "longer than before")
	write(t, dir+"/src/u.log", "new")
	os.MkdirAll(dir+"/src/deep/target/new/tree", 0o755)
	os.MkdirAll(dir+"/src/deep/node_modules/new", 0o755)
	write(t, dir+"/end", "")
	var paths []string
	for _, e := range c.until("end") {
		paths = append(paths, string(e.At(1).Bytes))
	}
	slices.Sort(paths)
	// What matches comes and goes; what becomes of it is not told.
	if want := []string{"src/deep/node_modules", "src/deep/target", "src/u.log"}; !slices.Equal(slices.Compact(paths), want) {
		t.Fatal(paths)
	}
	if got := c.watches(); got != 3 {
		t.Fatal(got)
	}
	// Renamed to a name that is left out, and back.
	os.Rename(dir+"/src/deep", dir+"/src/target2")
	os.Rename(dir+"/target", dir+"/shown")
	write(t, dir+"/end2", "")
	have := map[string]bool{}
	for _, e := range c.until("end2") {
		have[string(e.At(1).Bytes)] = !e.At(3).IsNil()
	}
	if !have["shown/x/f"] || !have["shown/new"] || have["target"] {
		t.Fatal(have)
	}
	if got := c.watches(); got != 5 { // shown and shown/x besides
		t.Fatal(got)
	}
	os.Rename(dir+"/shown", dir+"/src/node_modules2")
	os.RemoveAll(dir + "/src/node_modules")
	os.Rename(dir+"/src/node_modules2", dir+"/src/node_modules")
	write(t, dir+"/end3", "")
	c.until("end3")
	if got := c.watches(); got != 3 {
		t.Fatal(got)
	}
}

// TestListedAndLeftOut: the watch without walk is fed by listings, of what is left out too.
func TestListedAndLeftOut(t *testing.T) {
	dir := workspace(t)
	fill(t, dir)
	c := start(t, dir, options{})
	out := leave("", []string{"node_modules"}, []string{"/src/target"})
	c.watch("", false, out)
	c.must("list", b("node_modules/a"), 0, false)
	c.must("snapshot", b(""), 0, out)
	if got := c.watches(); got != 5 { // the root, src, src/deep, target, target/x
		t.Fatal(got)
	}
	// Anchored: what is below a directory that is renamed matches no more, or only now.
	os.Rename(dir+"/src", dir+"/lib")
	write(t, dir+"/end", "")
	have := map[string]bool{}
	for _, e := range c.until("end") {
		have[string(e.At(1).Bytes)] = !e.At(3).IsNil()
	}
	if !have["lib/target/f"] || have["lib/deep/f"] {
		t.Fatal(have)
	}
	if got := c.watches(); got != 6 {
		t.Fatal(got)
	}
	os.Rename(dir+"/lib", dir+"/src")
	write(t, dir+"/end2", "")
	c.until("end2")
	if got := c.watches(); got != 5 {
		t.Fatal(got)
	}
}

// TestScanningLeavesOut: beyond inotify's limit, what matches does not count either.
func TestScanningLeavesOut(t *testing.T) {
	dir, c := scanning(t, []string{"t.log", "f"}, leave("", []string{"*.log"}, nil))
	write(t, dir+"/d/t.log", "longer")
	write(t, dir+"/d/f", "longer")
	c.sees()
}
