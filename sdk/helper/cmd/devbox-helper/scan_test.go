package main_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

func TestScanningBeyondTheLimit(t *testing.T) {
	dir := workspace(t)
	for i := 0; i < 6; i++ {
		os.Mkdir(fmt.Sprintf("%s/d%d", dir, i), 0o755)
	}
	c := start(t, dir, options{env: []string{"DEVBOX_HELPER_WATCH_LIMIT=2"}})
	c.watch("", true)
	for i := 0; i < 6; i++ {
		write(t, fmt.Sprintf("%s/d%d/f", dir, i), "x")
	}
	seen := map[string]bool{}
	for len(seen) < 6 {
		path, mask, attr, _ := c.next()
		if mask == 0x4000 && attr.IsNil() {
			seen[path] = true
		} else {
			seen[path[:2]] = true
		}
	}
}

// scanning has a directory d with files, which is beyond inotify's limit.
func scanning(t *testing.T, files []string, leaveOut ...any) (string, *client) {
	t.Helper()
	dir := workspace(t)
	for _, name := range files {
		write(t, dir+"/d/"+name, "x")
	}
	c := start(t, dir, options{env: []string{"DEVBOX_HELPER_WATCH_LIMIT=1"}})
	c.watch("", true, leaveOut...)
	return dir, c
}

// sees waits until the scan has found something new in d.
func (c *client) sees() {
	c.t.Helper()
	if path, mask, _, _ := c.next(); path != "d" || mask != 0x4000 {
		c.t.Fatal(path, mask)
	}
}

// TestScanningSeesContents: what is written into a file does not touch its directory.
func TestScanningSeesContents(t *testing.T) {
	dir, c := scanning(t, []string{"f"})
	for _, content := range []string{"other", "OTHER"} {
		write(t, dir+"/d/f", content)
		c.sees()
	}
}

// TestOverflow: when the kernel drops events, the client is told.
func TestOverflow(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	c.watch("", true)
	c.cmd.Process.Signal(syscall.SIGSTOP)
	for i := 0; i < 9000; i++ { // two events each, and more; max_queued_events is 16384
		name := fmt.Sprintf("%s/f%d", dir, i)
		os.WriteFile(name, []byte("x"), 0o644)
	}
	c.cmd.Process.Signal(syscall.SIGCONT)
	for {
		path, mask, _, _ := c.next()
		if mask == 0x4000 {
			if path != "" {
				t.Fatal(path)
			}
			return
		}
	}
}
