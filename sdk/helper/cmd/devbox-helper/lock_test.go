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

const (
	soonTime = 700 * time.Millisecond
	soon     = "DEVBOX_HELPER_LEASE_MS=700"
)

// locking is a client with a journal.
type locking struct {
	*client
	journal, inc []byte
	batch, seq   int
}

func startLocking(t testing.TB, dir string, journal []byte, generation int, env ...string) *locking {
	t.Helper()
	c := start(t, dir, options{env: append([]string{soon}, env...)})
	last := c.must("attach", journal, generation).reply.At(0).Int
	return &locking{c, journal, random16(), int(last) + 1, 0}
}

// do applies one operation of the journal; pre "mine" stands for the operation before.
func (l *locking) do(kind, path string, further ...any) (syscall.Errno, *answer) {
	l.t.Helper()
	l.seq++
	op := append([]any{l.seq, kind, b(path)}, further...)
	a := l.finish(l.applyBegin([]any{l.journal, l.inc, 1, l.batch, 0, nil, false}, []any{op}, nil))
	l.batch++
	if a.errno != 0 {
		return a.errno, a
	}
	return syscall.Errno(a.records(l.t)[0].At(1).Int), a
}

func (l *locking) lock(path string) syscall.Errno {
	errno, _ := l.do("lock", path, []any{0}, 0o644)
	return errno
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func eventually(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: ", what)
		}
	}
}

func leases(dir string) string {
	found, _ := filepath.Glob(filepath.Dir(dir) + "/.devbox-helper-*/leases-*")
	return strings.Join(found, " ")
}

func TestLocksExclude(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/.git/theirs.lock", "")
	l := startLocking(t, dir, random16(), 1)
	if e := l.lock(".git/theirs.lock"); e != syscall.EEXIST {
		t.Fatal(e)
	}
	if e := l.lock(".git/ours.lock"); e != 0 {
		t.Fatal(e)
	}
	if _, err := os.OpenFile(dir+"/.git/ours.lock", os.O_CREATE|os.O_EXCL, 0o600); !os.IsExist(err) {
		t.Fatal(err)
	}
	if got := l.must("locks", l.journal, []any{b(".git/ours.lock"), b(".git/theirs.lock"), b("none")}).reply; got.At(0).Int != 1 || got.At(1).Int != 0 || got.At(2).Int != 0 {
		t.Fatal(got)
	}
	if e, _ := l.do("unlink", ".git/ours.lock", []any{2, 2}); e != 0 {
		t.Fatal(e)
	}
	l.in.Close()
	l.wait()
	if !exists(dir+"/.git/theirs.lock") || leases(dir) != "" {
		t.Fatal(leases(dir))
	}
}

// TestEventsBeforeALock: the answer names an event that everything which was older than the lock comes before.
func TestEventsBeforeALock(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/.git/ref", "0")
	l := startLocking(t, dir, random16(), 1)
	l.watch("", false)
	l.must("list", b(".git"), 0, false)
	for i := 0; i < 50; i++ {
		write(t, dir+"/.git/new", strings.Repeat("x", i+10))
		if err := os.Rename(dir+"/.git/new", dir+"/.git/ref"); err != nil {
			t.Fatal(err)
		}
		l.seq++
		made := l.seq
		op := []any{[]any{made, "lock", b(".git/ref.lock"), []any{0}, 0o644}}
		a := l.finish(l.applyBegin([]any{l.journal, l.inc, 1, l.batch, 0, nil, false}, op, nil))
		l.batch++
		seen := a.reply.At(4).Int
		size := int64(-1)
		for size != int64(i+10) {
			select {
			case e := <-l.events:
				if e.At(0).Int > seen {
					t.Fatalf("event %d after %d", e.At(0).Int, seen)
				}
				if string(e.At(1).Bytes) == ".git/ref" && !e.At(3).IsNil() {
					size = e.At(3).At(4).Int
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no event for the change before the lock")
			}
		}
		if e, _ := l.do("unlink", ".git/ref.lock", []any{2, made}); e != 0 {
			t.Fatal(e)
		}
	}
}

func TestALockOutlivesItsClientForAWhile(t *testing.T) {
	dir := workspace(t)
	l := startLocking(t, dir, random16(), 1)
	for _, path := range []string{"kept.lock", "theirs.lock"} {
		if e := l.lock(path); e != 0 {
			t.Fatal(e)
		}
	}
	if e, _ := l.do("write", "kept.lock", []any{2, 1}, []any{}, 7, nil); e != 0 { // writing does not make it another file
		t.Fatal(e)
	}
	os.Remove(dir + "/theirs.lock")
	write(t, dir+"/theirs.lock", "somebody else's")
	closed := time.Now()
	l.in.Close()
	l.wait()
	if !exists(dir+"/kept.lock") && time.Since(closed) < soonTime {
		t.Fatal("removed at once")
	}
	eventually(t, "the keeper removes the lock", func() bool { return !exists(dir + "/kept.lock") })
	eventually(t, "the keeper ends", func() bool { return leases(dir) == "" })
	if read(t, dir+"/theirs.lock") != "somebody else's" {
		t.Fatal("a foreign lock was removed")
	}
}

func TestAClientThatComesBackKeepsItsLocks(t *testing.T) {
	for _, killed := range []bool{false, true} {
		for lease := soonTime; !comesBack(t, killed, lease); lease *= 4 {
			t.Log("this machine was slower than ", lease)
		}
	}
}

// comesBack is false if the client came back only when the lease had run out.
func comesBack(t *testing.T, killed bool, lease time.Duration) bool {
	dir, journal := workspace(t), random16()
	env := fmt.Sprintf("DEVBOX_HELPER_LEASE_MS=%d", lease.Milliseconds())
	l := startLocking(t, dir, journal, 1, env)
	for _, path := range []string{"held.lock", "given up.lock"} {
		if e := l.lock(path); e != 0 {
			t.Fatal(e)
		}
	}
	gone := time.Now()
	if killed {
		l.cmd.Process.Kill()
	} else {
		l.in.Close()
	}
	l.wait()
	again := startLocking(t, dir, journal, 2, env)
	claimed := again.must("locks", journal, []any{b("held.lock")}).reply.At(0).Int == 1
	if !claimed {
		if time.Since(gone) < lease {
			t.Fatal(killed, "the lock is gone before its time")
		}
		return false
	}
	eventually(t, "the other lock runs out", func() bool { return !exists(dir + "/given up.lock") })
	time.Sleep(lease + 2*leaseTick)
	if !exists(dir + "/held.lock") {
		t.Fatal("a lock whose client is here was removed")
	}
	again.in.Close()
	again.wait()
	eventually(t, "the lock runs out", func() bool { return !exists(dir+"/held.lock") && leases(dir) == "" })
	return true
}

const leaseTick = 500 * time.Millisecond // between two looks of the helper at its leases

// TestAKilledHelpersLocksRunOut: the next helper of the workspace finds them, whoever its client is.
func TestAKilledHelpersLocksRunOut(t *testing.T) {
	dir := workspace(t)
	l := startLocking(t, dir, random16(), 1)
	if e := l.lock("a.lock"); e != 0 {
		t.Fatal(e)
	}
	l.cmd.Process.Kill()
	l.wait()
	start(t, dir, options{env: []string{soon}})
	eventually(t, "the lock runs out", func() bool { return !exists(dir + "/a.lock") })
}
