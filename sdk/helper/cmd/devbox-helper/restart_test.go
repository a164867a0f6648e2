package main_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
	reference := workspace(t)
	prepare(t, reference)
	c := start(t, reference, options{})
	ops, contents := scenario(reference, c)
	first := random16()
	c.must("attach", first, 1)
	wantErrnos, _ := c.finish(c.applyBegin([]any{first, random16(), 1, 1, 0, nil, false}, ops, nil, contents...)).outcomes(t)
	want := tree(t, reference)
	passes := 0
	for _, point := range []string{"accepted", "linked", "leased", "changed", "logged", "finished", "reply"} {
		for n := 1; ; n++ {
			dir := workspace(t)
			prepare(t, dir)
			c := start(t, dir, options{env: []string{fmt.Sprintf("DEVBOX_HELPER_FAULT=exit:%s:%d", point, n)}})
			ops, contents := scenario(dir, c)
			journal, inc := random16(), random16()
			c.must("attach", journal, 1)
			if a := c.finish(c.applyBegin([]any{journal, inc, 1, 1, 0, nil, false}, ops, nil, contents...)); a.errno == 0 {
				break // there is no n-th pass
			}
			passes++
			<-c.exited
			restarted(t, dir, journal)
			again := start(t, dir, options{})
			if got := again.must("attach", journal, 2).reply; got.At(0).Int != 0 || got.At(1).Int != 0 {
				t.Fatal(got)
			}
			errnos, _ := again.finish(again.applyBegin([]any{journal, inc, 2, 1, 0, nil, false}, ops, nil, contents...)).outcomes(t)
			for i, e := range errnos {
				if e != wantErrnos[i] {
					t.Errorf("%s %d: operation %d: %v", point, n, i+1, e)
				}
			}
			if got := tree(t, dir); got != want {
				t.Fatalf("%s %d: %s\nwant\n%s", point, n, got, want)
			}
		}
	}
	if passes < 50 {
		t.Fatalf("only %d restarts", passes)
	}
}

// restarted has the journal take the next helper's machine for another one.
func restarted(t *testing.T, dir string, journal []byte) {
	t.Helper()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	boot = bytes.TrimSpace(boot)
	meta := filepath.Join(stateOf(t, dir), hex.EncodeToString(journal), "meta")
	known, err := os.ReadFile(meta)
	if err != nil || !bytes.Contains(known, boot) {
		t.Fatalf("%q %v", known, err)
	}
	os.WriteFile(meta, bytes.Replace(known, boot, bytes.Repeat([]byte("x"), len(boot)), 1), 0o600)
}

// TestRenamedOverBeforeARestart: what is made under one name and renamed over another is done again as a whole, in as many
// batches as it came. What is there meanwhile is not ours to replace unless it has our content.
func TestRenamedOverBeforeARestart(t *testing.T) {
	for name, foreign := range map[string]string{"as it was": "", "changed by somebody": "foreign", "of a content too large to compare": strings.Repeat("x", 5<<20)} {
		t.Run(name, func(t *testing.T) {
			dir := workspace(t)
			write(t, dir+"/.git/ref", "old")
			write(t, dir+"/note", "old")
			l := startLocking(t, dir, random16(), 1)
			ours := "ours"
			if len(foreign) > len(ours)*1000 {
				ours, foreign = foreign, ""
			}
			var begun []func(c *client) []syscall.Errno
			send := func(batch int, ops []any, contents ...content) {
				begun = append(begun, func(c *client) []syscall.Errno {
					t.Helper()
					a := c.finish(c.applyBegin([]any{l.journal, l.inc, 2, batch, 0, nil, false}, ops, nil, contents...))
					errnos, _ := a.outcomes(t)
					return errnos
				})
			}
			send(1, []any{[]any{1, "lock", b(".git/ref.lock"), []any{0}, 0o644}})
			send(2, []any{
				[]any{2, "write", b(".git/ref.lock"), []any{2, 1}, []any{[]any{0, 0}}, nil, stamp},
				[]any{3, "rename", b(".git/ref"), l.version(".git/ref"), b(".git/ref.lock"), []any{2, 2}, 0},
			}, text(ours))
			send(3, []any{[]any{4, "put", b("note.tmp"), []any{0}, 0}}, text(ours))
			send(4, []any{[]any{5, "rename", b("note"), l.version("note"), b("note.tmp"), []any{2, 4}, 0}})
			l.must("attach", l.journal, 2)
			for i, again := range begun {
				for _, e := range again(l.client) {
					if e != 0 {
						t.Fatal(i, e)
					}
				}
			}
			l.cmd.Process.Kill()
			l.wait()
			restarted(t, dir, l.journal)
			if foreign != "" {
				write(t, dir+"/.git/ref", foreign)
				write(t, dir+"/note", foreign)
			}
			c := start(t, dir, options{env: []string{soon}})
			if got := c.must("attach", l.journal, 2).reply.At(0).Int; got != 0 {
				t.Fatal(got)
			}
			var errnos []syscall.Errno
			for _, again := range begun {
				errnos = append(errnos, again(c)...)
			}
			want := []syscall.Errno{0, 0, 0, 0, 0}
			if foreign != "" || len(ours) > 4<<20 {
				want[2], want[4] = syscall.ESTALE, syscall.ESTALE
				for _, path := range []string{"/.git/ref.lock", "/note.tmp"} {
					if read(t, dir+path) != ours {
						t.Error("lost what was to be renamed: ", path)
					}
				}
				os.Remove(dir + "/.git/ref.lock")
			} else if exists(dir+"/.git/ref.lock") || exists(dir+"/note.tmp") {
				t.Error("left behind")
			}
			if !slices.Equal(errnos, want) {
				t.Error(errnos)
			}
			for _, path := range []string{"/.git/ref", "/note"} {
				if got := read(t, dir+path); foreign != "" && got != foreign || foreign == "" && got != ours {
					t.Errorf("%s: %.20q", path, got)
				}
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
