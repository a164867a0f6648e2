package main_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/vectors"
	"sealos.io/devbox-helper/internal/wire"
)

// raw runs a helper on given input and returns its output and exit status.
func raw(t *testing.T, input []byte, keepOpen bool) ([]byte, int) {
	t.Helper()
	cmd := exec.Command(binary_, "serve", "--root", workspace(t))
	in, _ := cmd.StdinPipe()
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Write(input)
	if !keepOpen {
		in.Close()
	}
	timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	in.Close()
	return out.Bytes(), cmd.ProcessState.ExitCode()
}

func frame(kind wire.Type, id uint32, payload []byte) []byte {
	return append(wire.AppendHeader(nil, kind, 0, id, len(payload)), payload...)
}

var hello = frame(wire.Hello, 0, v(map[string]any{"protocol": 1, "client": "t", "window": 1 << 20}).Append(nil))

func TestExitStatus(t *testing.T) {
	if _, status := raw(t, nil, false); status != 0 {
		t.Error("no input:", status)
	}
	if _, status := raw(t, hello[:5], false); status != 0 {
		t.Error("half a HELLO:", status)
	}
	out, status := raw(t, frame(wire.Hello, 0, v(map[string]any{"protocol": 2}).Append(nil)), true)
	if status != 3 || !bytes.Contains(out, []byte("protocol 1")) {
		t.Errorf("protocol 2: %d %q", status, out)
	}
	if _, status := raw(t, frame(wire.Request, 1, v([]any{"sync"}).Append(nil)), true); status != 3 {
		t.Error("no HELLO:", status)
	}
	if _, status := raw(t, append(bytes.Clone(hello), frame(wire.Welcome, 0, []byte{0x80})...), true); status != 3 {
		t.Error("a WELCOME from the client:", status)
	}
	for args, want := range map[string]int{"": 2, "serve": 2, "serve --root /proc/absent": 2, "serve --root": 2, "--version": 0, "apply x": 2,
		"serve --root /tmp --user nonexistent-user": 2} {
		cmd := exec.Command(binary_, strings.Fields(args)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want || want == 2 && strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: %d %q", args, got, stderr.String())
		}
	}
}

func TestRefusedFramesEndTheConnection(t *testing.T) {
	var f struct{ Refused []struct{ Hex, Why string } }
	vectors.Load(t, "frames", &f)
	for _, one := range f.Refused {
		bad, _ := hex.DecodeString(one.Hex)
		if _, status := raw(t, append(bytes.Clone(hello), bad...), true); status != 3 {
			t.Errorf("%s: %d", one.Why, status)
		}
	}
}

func TestBadRequestsAreAnswered(t *testing.T) {
	c := start(t, workspace(t), options{})
	var f struct{ Refused []struct{ Hex, Why string } }
	vectors.Load(t, "msgpack", &f)
	for i, one := range f.Refused {
		payload, _ := hex.DecodeString(one.Hex)
		id := uint32(1_000_000 + i)
		a := &answer{done: make(chan struct{}), arrived: make(chan struct{}, 1)}
		c.mu.Lock()
		c.answers[id] = a
		c.mu.Unlock()
		c.send(wire.Request, id, payload)
		if c.finish(a); a.errno != syscall.EINVAL {
			t.Errorf("%s: %v", one.Why, a.errno)
		}
	}
	for _, op := range []string{"stat", "stat_many", "list", "snapshot", "read", "read_many", "open", "pread", "readlink", "hash", "getxattr",
		"apply", "attach", "detach", "exec", "watch"} {
		for _, args := range [][]any{{5}, {"x", "y", "z"}, {nil, nil, nil, nil}, {[]any{[]any{}}}, {map[string]any{"a": 1}}, {b("x"), b("x"), b("x"), b("x"), b("x")},
			{b("\x00"), false}, {[]any{nil}, 1 << 62, -5}, {-1, -1, -1, -1}} {
			id, a := c.begin(op, args...)
			c.send(wire.End, id, nil)
			select {
			case <-a.done:
			case <-time.After(time.Second):
				c.send(wire.Cancel, id, nil) // a watch
			}
			if c.finish(a); a.errno == syscall.EIO {
				t.Errorf("%s %v: EIO", op, args)
			}
		}
	}
	c.must("stat", b(""), false, 0)
}

// TestNoCredit: a client that grants nothing gets its window, PONGs and small replies.
func TestNoCredit(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/big", strings.Repeat("x", 1<<20))
	c := start(t, dir, options{noCredit: true, hello: map[string]any{"window": 200_000}})
	id, big := c.begin("read", b("big"), nil, 0, -1, false)
	received := func() (n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, d := range big.data {
			n += len(d)
		}
		return n
	}
	for start := time.Now(); received() < 200_000; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal(received())
		}
	}
	for i := 0; i < 100; i++ {
		c.must("stat", b("big"), false, 0)
	}
	c.send(wire.Ping, 0, nil)
	select {
	case <-c.pongs:
	case <-time.After(10 * time.Second):
		t.Fatal("no pong")
	}
	if received() != 200_000 {
		t.Fatal("more than the window: ", received())
	}
	c.send(wire.Credit, id, wire.CreditPayload(1<<20))
	if c.finish(big); big.errno != 0 || len(big.bytes()) != 1<<20 {
		t.Fatal(big.errno)
	}
	id, stuck := c.begin("read", b("big"), nil, 0, -1, false)
	c.send(wire.Cancel, id, nil)
	if c.finish(stuck); stuck.errno != syscall.ECANCELED && stuck.errno != 0 {
		t.Fatal(stuck.errno)
	}
}

func TestClientBeyondItsWindow(t *testing.T) {
	c := start(t, workspace(t), options{})
	id, _ := c.begin("exec", []any{b("sleep"), b("100")}, nil, nil, nil, 0)
	for i := 0; i < 80; i++ { // 10 MiB into a window of 4
		if c.send(wire.Data, id, make([]byte, wire.MaxPayload)) != nil {
			break
		}
	}
	if status := c.wait(); status != 3 {
		t.Fatal(status)
	}
}

func TestTooManyRequests(t *testing.T) {
	c := start(t, workspace(t), options{})
	var ids []uint32
	var answers []*answer
	for i := 0; i < 256; i++ {
		id, a := c.begin("apply", nil)
		ids, answers = append(ids, id), append(answers, a)
	}
	if got := c.call("stat", b(""), false, 0).errno; got != syscall.EAGAIN {
		t.Fatal(got)
	}
	for _, id := range ids {
		c.send(wire.Cancel, id, nil)
	}
	for _, a := range answers {
		c.finish(a)
	}
	c.must("stat", b(""), false, 0)
}

func TestHeartbeat(t *testing.T) {
	cmd := exec.Command(binary_, "serve", "--root", workspace(t))
	in, _ := cmd.StdinPipe()
	defer in.Close()
	out, _ := cmd.StdoutPipe()
	cmd.Start()
	in.Write(frame(wire.Hello, 0, v(map[string]any{"protocol": 1, "heartbeat_ms": 500}).Append(nil)))
	io.ReadFull(out, make([]byte, len(wire.Magic)))
	reader := wire.NewReader(out)
	pings := 0
	for {
		f, err := reader.Next()
		if err != nil {
			break
		}
		if f.Type == wire.Ping {
			pings++
		}
	}
	cmd.Wait()
	// 1.5 s of silence: it pings, and then takes us for dead.
	if pings == 0 || cmd.ProcessState.ExitCode() != 0 {
		t.Fatal(pings, cmd.ProcessState)
	}
}

// TestEndOfInputWithBlockedOutput: the helper exits though nobody reads what it writes.
func TestEndOfInputWithBlockedOutput(t *testing.T) {
	dir := workspace(t)
	write(t, dir+"/big", strings.Repeat("x", 8<<20))
	cmd := exec.Command(binary_, "serve", "--root", dir)
	in, _ := cmd.StdinPipe()
	r, w, _ := os.Pipe()
	defer r.Close()
	cmd.Stdout = w
	cmd.Start()
	w.Close()
	in.Write(frame(wire.Hello, 0, v(map[string]any{"protocol": 1, "window": 1 << 30}).Append(nil)))
	in.Write(frame(wire.Request, 1, v([]any{"read", b("big"), nil, 0, -1, false}).Append(nil)))
	eventually(t, "the pipe is full", func() bool {
		var n int32
		syscall.Syscall(syscall.SYS_IOCTL, r.Fd(), syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
		return n >= 48<<10 // of 64 KiB, in pages of which some are not full
	})
	in.Close()
	done := make(chan error)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		cmd.Process.Kill()
		t.Fatal("still there")
	}
}

func TestCompression(t *testing.T) {
	dir := workspace(t)
	content := strings.Repeat("compressible ", 100_000)
	write(t, dir+"/text", content)
	c := start(t, dir, options{hello: map[string]any{"compress": true}})
	if got := string(c.must("read", b("text"), nil, 0, -1, false).bytes()); got != content {
		t.Fatal(len(got))
	}
}

func TestManyRequestsAtOnce(t *testing.T) {
	dir := workspace(t)
	for i := 0; i < 50; i++ {
		write(t, fmt.Sprintf("%s/f%d", dir, i), strings.Repeat(fmt.Sprint(i%10), 1+i*5000))
	}
	c := start(t, dir, options{})
	for round := 0; round < 10; round++ {
		var all []*answer
		for i := 0; i < 200; i++ {
			_, a := c.begin("read", b(fmt.Sprintf("f%d", i%50)), nil, 0, -1, false)
			all = append(all, a)
		}
		for i, a := range all {
			if c.finish(a); a.errno != 0 || len(a.bytes()) != 1+i%50*5000 {
				t.Fatal(i, a.errno, len(a.bytes()))
			}
		}
	}
}

func TestSplitInput(t *testing.T) {
	request := frame(wire.Request, 1, v([]any{"stat", b(""), false, 0}).Append(nil))
	cmd := exec.Command(binary_, "serve", "--root", workspace(t))
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	cmd.Start()
	for _, x := range append(bytes.Clone(hello), request...) {
		in.Write([]byte{x})
	}
	io.ReadFull(out, make([]byte, len(wire.Magic)))
	reader := wire.NewReader(out)
	for {
		f, err := reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == wire.Reply {
			if x, err := msgpack.Decode(f.Payload); err != nil || len(x.At(1).Items) != 13 {
				t.Fatal(x, err)
			}
			break
		}
	}
	in.Close()
	cmd.Wait()
}
