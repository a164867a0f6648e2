// The client of these tests, whole in one file: it speaks the protocol as the SDK does, and shares no code with the helper.
package main_test

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/wire"
)

var binary_ string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "helper-test")
	if err != nil {
		panic(err)
	}
	binary_ = filepath.Join(dir, "devbox-helper")
	args := []string{"build", "-o", binary_}
	if os.Getenv("GOCOVERDIR") != "" { // what the helpers run counts, for go tool covdata
		args = append(args, "-cover", "-coverpkg=sealos.io/devbox-helper/...")
	}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, ".")...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

type value = msgpack.Value

// v makes a Value of Go values: nil, bool, int, string (a str), []byte (a bin), []any.
func v(x any) value {
	switch y := x.(type) {
	case nil:
		return value{}
	case value:
		return y
	case bool:
		if y {
			return value{Kind: msgpack.Bool, Int: 1}
		}
		return value{Kind: msgpack.Bool}
	case int:
		return value{Kind: msgpack.Int, Int: int64(y)}
	case int64:
		return value{Kind: msgpack.Int, Int: y}
	case string:
		return value{Kind: msgpack.Str, Bytes: []byte(y)}
	case []byte:
		return value{Kind: msgpack.Bin, Bytes: y}
	case []any:
		a := value{Kind: msgpack.Array}
		for _, item := range y {
			a.Items = append(a.Items, v(item))
		}
		return a
	case map[string]any:
		m := value{Kind: msgpack.Map}
		for k, item := range y {
			m.Items = append(m.Items, v(k), v(item))
		}
		return m
	}
	panic(fmt.Sprintf("%T", x))
}

func b(s string) []byte { return []byte(s) }

// client is a test's end of a connection to a real helper.
type client struct {
	t       testing.TB
	cmd     *exec.Cmd
	in      io.WriteCloser
	reader  *wire.Reader
	welcome value

	mu      sync.Mutex
	sendMu  sync.Mutex
	last    uint32
	answers map[uint32]*answer
	events  chan value
	// events without a bit of inotify
	directories chan value
	pongs       chan value
	exited      chan struct{}
	status      int
	noCredit    bool
	connErr     value
}

type answer struct {
	data    [][]byte
	subs    []byte
	reply   value
	event   int64
	errno   syscall.Errno
	done    chan struct{}
	begun   chan struct{} // closed by the first frame of events
	arrived chan struct{} // a token for each frame
	credit  int
}

type options struct {
	args     []string
	env      []string
	hello    map[string]any
	noCredit bool
}

func start(t testing.TB, root string, o options) *client {
	t.Helper()
	c := &client{t: t, answers: map[uint32]*answer{}, events: make(chan value, 100000),
		directories: make(chan value, 100000), pongs: make(chan value, 1000),
		exited: make(chan struct{}), noCredit: o.noCredit}
	c.cmd = exec.Command(binary_, append([]string{"serve", "--root", root}, o.args...)...)
	c.cmd.Env = append(os.Environ(), o.env...)
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.in = in
	hello := map[string]any{"protocol": 1, "client": "test", "window": 1 << 20, "compress": false}
	for k, x := range o.hello {
		hello[k] = x
	}
	c.send(wire.Hello, 0, v(hello).Append(nil))
	magic := make([]byte, len(wire.Magic))
	if _, err := io.ReadFull(out, magic); err != nil || string(magic) != wire.Magic {
		t.Fatalf("magic %q: %v", magic, err)
	}
	c.reader = wire.NewReader(out)
	first, err := c.reader.Next()
	if err != nil || first.Type != wire.Welcome {
		t.Fatal(first, err)
	}
	if c.welcome, err = msgpack.Decode(first.Payload); err != nil {
		t.Fatal(err)
	}
	go c.read()
	t.Cleanup(func() {
		c.in.Close()
		c.wait()
	})
	return c
}

func (c *client) wait() int {
	select {
	case <-c.exited:
	case <-time.After(20 * time.Second):
		c.cmd.Process.Kill()
		c.t.Error("the helper did not exit")
		<-c.exited
	}
	return c.status
}

func (c *client) read() {
	for {
		f, err := c.reader.Next()
		if err != nil {
			break
		}
		c.take(f)
	}
	err := c.cmd.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = c.cmd.ProcessState.ExitCode()
	_ = err
	for _, a := range c.answers {
		select {
		case <-a.done:
		default:
			a.errno = syscall.ECONNRESET
			close(a.done)
		}
	}
	close(c.exited)
}

func (c *client) take(f wire.Frame) {
	switch f.Type {
	case wire.Events:
		all, err := msgpack.Decode(f.Payload)
		if err != nil {
			c.t.Error(err)
		}
		c.mu.Lock()
		if a := c.answers[f.ID]; a != nil && a.begun != nil {
			close(a.begun)
			a.begun = nil
		}
		c.mu.Unlock()
		for _, e := range all.Items {
			if e.At(2).Int == 0 { // a directory of which entries changed
				c.directories <- e
			} else {
				c.events <- e
			}
		}
		return
	case wire.Pong:
		p, _ := msgpack.Decode(f.Payload)
		select {
		case c.pongs <- p:
		default:
		}
		return
	case wire.Ping:
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.answers[f.ID]
	if a == nil {
		if f.Type == wire.Error {
			c.connErr, _ = msgpack.Decode(f.Payload)
		}
		return
	}
	switch f.Type {
	case wire.Data:
		a.data = append(a.data, f.Payload)
		a.subs = append(a.subs, f.Sub)
		if !c.noCredit && f.Wire > 0 {
			go c.send(wire.Credit, f.ID, wire.CreditPayload(uint32(f.Wire)))
		}
	case wire.Credit:
		a.credit += int(binary.BigEndian.Uint32(f.Payload))
	case wire.Reply, wire.Error:
		x, err := msgpack.Decode(f.Payload)
		if err != nil {
			c.t.Error(err)
		}
		if f.Type == wire.Error {
			a.errno = syscall.Errno(x.At(0).Int)
			if len(x.At(1).Bytes) == 0 {
				c.t.Error("an error without a message")
			}
		} else {
			a.event, a.reply = x.At(0).Int, x.At(1)
		}
		close(a.done)
		delete(c.answers, f.ID)
	}
	select {
	case a.arrived <- struct{}{}:
	default:
	}
}

func (c *client) send(kind wire.Type, id uint32, payload []byte) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	_, err := c.in.Write(append(wire.AppendHeader(nil, kind, 0, id, len(payload)), payload...))
	return err
}

// begin sends a request.
func (c *client) begin(op string, args ...any) (uint32, *answer) {
	return c.beginWith(nil, op, args...)
}

// beginWith also closes a channel when the first events come.
func (c *client) beginWith(begun chan struct{}, op string, args ...any) (uint32, *answer) {
	c.mu.Lock()
	c.last++
	id := c.last
	a := &answer{done: make(chan struct{}), begun: begun, arrived: make(chan struct{}, 1)}
	c.answers[id] = a
	c.mu.Unlock()
	c.send(wire.Request, id, v(append([]any{op}, args...)).Append(nil))
	return id, a
}

func (c *client) finish(a *answer) *answer {
	c.t.Helper()
	select {
	case <-a.done:
	case <-time.After(30 * time.Second):
		c.cmd.Process.Signal(syscall.SIGQUIT)
		c.t.Fatal("no answer")
	}
	return a
}

func (c *client) call(op string, args ...any) *answer {
	c.t.Helper()
	_, a := c.begin(op, args...)
	return c.finish(a)
}

// must is call for a request that succeeds.
func (c *client) must(op string, args ...any) *answer {
	c.t.Helper()
	a := c.call(op, args...)
	if a.errno != 0 {
		c.t.Fatalf("%s %v: %v", op, args, a.errno)
	}
	return a
}

func (c *client) data(id uint32, content []byte) {
	for len(content) > 0 {
		n := min(len(content), wire.MaxPayload)
		c.send(wire.Data, id, content[:n])
		content = content[n:]
	}
}

// records decodes an answer's DATA: the concatenation of its arrays.
func (a *answer) records(t testing.TB) []value {
	t.Helper()
	var all []value
	for _, d := range a.data {
		x, err := msgpack.Decode(d)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, x.Items...)
	}
	return all
}

func (a *answer) bytes() []byte { return bytes.Join(a.data, nil) }

// content is a member of an apply archive.
type content struct {
	data  string
	mode  int64
	mtime int64
}

func archive(t testing.TB, ops []any, sync any, contents []content) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(name string, c content) {
		h := &tar.Header{Name: name, Size: int64(len(c.data)), Mode: c.mode, Typeflag: tar.TypeReg, Format: tar.FormatPAX,
			ModTime: time.Unix(0, c.mtime)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, c.data)
	}
	add("manifest", content{string(v([]any{ops, sync}).Append(nil)), 0o600, 1})
	for i, c := range contents {
		add(strconv.Itoa(i), c)
	}
	w.Close()
	return out.Bytes()
}

// apply is a plain apply.
func (c *client) apply(ops []any, contents ...content) *answer {
	c.t.Helper()
	return c.finish(c.applyBegin([]any{nil}, ops, nil, contents...))
}

func (c *client) applyBegin(args, ops []any, sync any, contents ...content) *answer {
	id, a := c.begin("apply", args...)
	c.data(id, archive(c.t, ops, sync, contents))
	c.send(wire.End, id, nil)
	return a
}

// outcomes returns errno and flags of each operation.
func (a *answer) outcomes(t testing.TB) (errnos []syscall.Errno, flags []int64) {
	t.Helper()
	if a.errno != 0 {
		t.Fatal(a.errno)
	}
	for _, r := range a.records(t) {
		errnos = append(errnos, syscall.Errno(r.At(1).Int))
		flags = append(flags, r.At(3).Int)
	}
	return errnos, flags
}

// one applies one operation and returns its outcome.
func (c *client) one(op []any, contents ...content) (errno syscall.Errno, conflict bool, attr value) {
	c.t.Helper()
	a := c.apply([]any{op}, contents...)
	if a.errno != 0 {
		return a.errno, false, value{}
	}
	r := a.records(c.t)
	if len(r) != 1 {
		c.t.Fatal("outcomes", r)
	}
	return syscall.Errno(r[0].At(1).Int), r[0].At(3).Int&1 != 0, r[0].At(2)
}

// expect applies one operation that ends with errno.
func (c *client) expect(errno syscall.Errno, op []any, contents ...content) value {
	c.t.Helper()
	got, _, attr := c.one(op, contents...)
	if got != errno {
		c.t.Fatalf("%v: %v, want %v", op, got, errno)
	}
	return attr
}

func random16() []byte {
	id := make([]byte, 16)
	rand.Read(id)
	return id
}

func version(attr value) []any {
	return []any{1, attr.At(5), attr.At(7), attr.At(6), attr.At(4), attr.At(12)}
}

func (c *client) version(path string) []any {
	c.t.Helper()
	return version(c.must("stat", b(path), false, 0).reply)
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// workspace is a directory with nothing else beside it.
func workspace(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "work")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
