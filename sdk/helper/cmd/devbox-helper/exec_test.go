package main_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealos.io/devbox-helper/internal/wire"
)

func (a *answer) stream(sub byte) string {
	var s strings.Builder
	for i, d := range a.data {
		if a.subs[i] == sub {
			s.Write(d)
		}
	}
	return s.String()
}

func argv(args ...string) []any {
	var all []any
	for _, a := range args {
		all = append(all, b(a))
	}
	return all
}

func TestExec(t *testing.T) {
	dir := workspace(t)
	os.Mkdir(dir+"/sub", 0o755)
	c := start(t, dir, options{})
	a := c.must("exec", argv("sh", "-c", "pwd; echo $NAME >&2; exit 7"), b("sub"), map[string]any{"NAME": "value"}, nil, 0)
	if a.stream(0) != dir+"/sub\n" || a.stream(1) != "value\n" || a.reply.At(0).Int != 7 || !a.reply.At(1).IsNil() {
		t.Fatal(a.stream(0), a.stream(1), a.reply)
	}
	if got := c.call("exec", argv("no-such-program"), nil, nil, nil, 0).errno; got != syscall.ENOENT {
		t.Fatal(got)
	}
	if got := c.call("exec", argv(dir+"/sub"), nil, nil, nil, 0).errno; got != syscall.EACCES {
		t.Fatal(got)
	}
	if got := c.call("exec", argv("true"), b("none"), nil, nil, 0).errno; got != syscall.ENOENT {
		t.Fatal(got)
	}
}

func TestExecStreams(t *testing.T) {
	c := start(t, workspace(t), options{})
	big := strings.Repeat("0123456789abcdef", 1<<16)
	id, a := c.begin("exec", argv("cat"), nil, nil, nil, 0)
	c.data(id, []byte(big))
	c.send(wire.End, id, nil)
	if c.finish(a); a.errno != 0 || a.stream(0) != big {
		t.Fatal(a.errno, len(a.stream(0)))
	}
	// A command that does not read its input does not hold up anybody else.
	id, stuck := c.begin("exec", argv("sleep", "100"), nil, nil, nil, 0)
	c.data(id, make([]byte, 3<<20))
	for i := 0; i < 50; i++ {
		c.must("stat", b(""), false, 0)
	}
	c.send(wire.Control, id, v([]any{"signal", 15}).Append(nil))
	if c.finish(stuck); stuck.errno != 0 || stuck.reply.At(1).Int != 15 {
		t.Fatal(stuck.errno, stuck.reply)
	}
	// Background children that hold the output open are not waited for.
	begin := time.Now()
	a = c.must("exec", argv("sh", "-c", "sleep 30 & echo $!"), nil, nil, nil, 0)
	if took := time.Since(begin); took > 5*time.Second || a.reply.At(0).Int != 0 {
		t.Fatal(took, a.reply)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(a.stream(0)))
	syscall.Kill(pid, syscall.SIGKILL)
}

func TestExecTerminal(t *testing.T) {
	c := start(t, workspace(t), options{})
	id, a := c.begin("exec", argv("sh", "-c", "stty size; echo $TERM; while [ \"$(stty size)\" = \"24 80\" ]; do sleep 0.01; done; stty size; read line; echo got $line; cat"), nil, nil, []any{24, 80, "vt100"}, 0)
	for !strings.Contains(locked(c, a), "vt100") {
		wait(t, a)
	}
	c.send(wire.Control, id, v([]any{"resize", 50, 132}).Append(nil))
	for !strings.Contains(locked(c, a), "50 132") {
		wait(t, a)
	}
	c.send(wire.Data, id, []byte("line\n"))
	c.send(wire.End, id, nil)
	c.finish(a)
	out := a.stream(0)
	if !strings.Contains(out, "24 80") || !strings.Contains(out, "50 132") || !strings.Contains(out, "got line") || a.reply.At(0).Int != 0 {
		t.Fatalf("%q %v", out, a.reply)
	}
}

func locked(c *client, a *answer) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.stream(0)
}

func wait(t *testing.T, a *answer) {
	t.Helper()
	select {
	case <-a.arrived:
	case <-a.done:
	case <-time.After(10 * time.Second):
		t.Fatal("no output")
	}
}

// group starts a command with a child and returns their process ids.
func group(t *testing.T, c *client) (uint32, *answer, []int) {
	t.Helper()
	id, a := c.begin("exec", argv("sh", "-c", "sleep 1000 & echo $$ $!; wait"), nil, nil, nil, 0)
	for !strings.Contains(locked(c, a), "\n") {
		wait(t, a)
	}
	var one, two int
	fmt.Sscan(locked(c, a), &one, &two)
	return id, a, []int{one, two}
}

func gone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		for begin := time.Now(); ; time.Sleep(time.Millisecond) {
			state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil || strings.Contains(string(state), ") Z") {
				break
			}
			if time.Since(begin) > 10*time.Second {
				t.Fatalf("%d lives on: %s", pid, state)
			}
		}
	}
}

func TestExecGroupIsKilled(t *testing.T) {
	c := start(t, workspace(t), options{})
	id, a, pids := group(t, c)
	c.send(wire.Cancel, id, nil)
	if c.finish(a); a.errno != syscall.ECANCELED {
		t.Fatal(a.errno)
	}
	gone(t, pids)
	_, _, pids = group(t, c)
	c.in.Close()
	if status := c.wait(); status != 0 {
		t.Fatal(status)
	}
	gone(t, pids)
}

func TestPrivilegeDrop(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := workspace(t)
	for _, p := range []string{dir, dir + "/..", dir + "/../.."} {
		os.Chmod(p, 0o755)
	}
	os.Chown(dir, 65534, 65534)
	c := start(t, dir, options{args: []string{"--user", "65534"}})
	if c.welcome.Get("uid").Int != 65534 {
		t.Fatal(c.welcome.Get("uid"))
	}
	c.expect(0, []any{1, "put", b("f"), []any{0}, 0}, text("x"))
	var st syscall.Stat_t
	syscall.Stat(dir+"/f", &st)
	if st.Uid != 65534 {
		t.Fatal(st.Uid)
	}
	write(t, dir+"/secret", "x")
	os.Chmod(dir+"/secret", 0o600)
	if got := c.call("read", b("secret"), nil, 0, -1, false).errno; got != syscall.EACCES {
		t.Fatal(got)
	}
	if out := c.must("exec", argv("id", "-u"), nil, nil, nil, 0).stream(0); out != "65534\n" {
		t.Fatal(out)
	}
	c.expect(syscall.EPERM, []any{1, "setattr", b("secret"), []any{3}, 0o777, nil, nil, nil, nil})
}
