package main_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func stateOf(t *testing.T, dir string) string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Dir(dir) + "/.devbox-helper-*")
	if len(found) != 1 {
		t.Fatal(found)
	}
	return found[0]
}

// TestAfterARestartOfTheMachine: of what was not made durable nothing is believed. It is sent again, and done once.
func TestAfterARestartOfTheMachine(t *testing.T) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	boot = bytes.TrimSpace(boot)
	reference := workspace(t)
	prepare(t, reference)
	c := start(t, reference, options{})
	ops, contents := scenario(reference, c)
	first := random16()
	c.must("attach", first, 1)
	wantErrnos, _ := c.finish(c.applyBegin([]any{first, random16(), 1, 1, 0, nil, false}, ops, nil, contents...)).outcomes(t)
	want := tree(t, reference)
	for _, fault := range []string{"accepted:1", "linked:1", "changed:3", "changed:9", "verified:6", "logged:14", "changed:20"} {
		t.Run(fault, func(t *testing.T) {
			dir := workspace(t)
			prepare(t, dir)
			c := start(t, dir, options{env: []string{"DEVBOX_HELPER_FAULT=exit:" + fault}})
			ops, contents := scenario(dir, c)
			journal, inc := random16(), random16()
			c.must("attach", journal, 1)
			if a := c.finish(c.applyBegin([]any{journal, inc, 1, 1, 0, nil, false}, ops, nil, contents...)); a.errno == 0 {
				t.Fatal("it was not killed")
			}
			<-c.exited
			meta := filepath.Join(stateOf(t, dir), hex.EncodeToString([]byte(journal)), "meta")
			known, err := os.ReadFile(meta)
			if err != nil || !bytes.Contains(known, boot) {
				t.Fatalf("%q %v", known, err)
			}
			os.WriteFile(meta, bytes.Replace(known, boot, bytes.Repeat([]byte("x"), len(boot)), 1), 0o600)
			again := start(t, dir, options{})
			if got := again.must("attach", journal, 2).reply; got.At(0).Int != 0 || got.At(1).Int != 0 {
				t.Fatal(got)
			}
			errnos, _ := again.finish(again.applyBegin([]any{journal, inc, 2, 1, 0, nil, false}, ops, nil, contents...)).outcomes(t)
			for i, e := range errnos {
				// Two that were exchanged look as before: that is told as a conflict, and nothing is lost.
				if e != wantErrnos[i] && i+1 != 13 {
					t.Errorf("operation %d: %v", i+1, e)
				}
			}
			if got := tree(t, dir); got != want {
				t.Fatalf("%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestWhatAPlainCallLeft is removed, unless it holds what was displaced and perhaps not verified.
func TestWhatAPlainCallLeft(t *testing.T) {
	dir := workspace(t)
	c := start(t, dir, options{})
	c.in.Close()
	c.wait()
	state := stateOf(t, dir)
	for name, inside := range map[string]string{"new-plain": "0", "new-old": "old-1", "new-gone": "gone-1", "new-young": "0"} {
		write(t, state+"/"+name+"/"+inside, "x")
		if name != "new-young" {
			os.Chtimes(state+"/"+name, time.Unix(1000, 0), time.Unix(1000, 0))
		}
	}
	start(t, dir, options{}).must("attach", random16(), 1)
	eventually(t, "the rest is removed", func() bool {
		entries, _ := os.ReadDir(state)
		var names []string
		for _, e := range entries {
			if strings.Contains(e.Name(), "new-") {
				names = append(names, e.Name())
			}
		}
		return fmt.Sprint(names) == "[kept-new-gone kept-new-old new-young]"
	})
}
