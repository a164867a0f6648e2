package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"sealos.io/devbox-helper/internal/vectors"
)

type frameVector struct {
	Type    Type
	Flags   byte
	ID      uint32
	Payload string
	Hex     string
}

type frameFile struct {
	Frames, Compressed []frameVector
	Refused            []struct{ Hex, Why string }
}

func load(t *testing.T) (f frameFile) {
	vectors.Load(t, "frames", &f)
	return f
}

func TestFrameVectors(t *testing.T) {
	f := load(t)
	var all []byte
	for _, v := range f.Frames {
		payload := vectors.Hex(t, v.Payload)
		raw := append(AppendHeader(nil, v.Type, v.Flags, v.ID, len(payload)), payload...)
		if hex.EncodeToString(raw) != v.Hex {
			t.Errorf("type %d is encoded as %x", v.Type, raw)
		}
	}
	for _, v := range append(f.Frames, f.Compressed...) {
		raw := vectors.Hex(t, v.Hex)
		all = append(all, raw...)
		for name, reader := range map[string]io.Reader{
			"whole": bytes.NewReader(raw), "byte by byte": iotest.OneByteReader(bytes.NewReader(raw)),
			"with the error": iotest.DataErrReader(bytes.NewReader(raw)),
		} {
			r := NewReader(reader)
			got, err := r.Next()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got.Type != v.Type || got.ID != v.ID || got.Sub != v.Flags>>4 || hex.EncodeToString(got.Payload) != v.Payload || got.Wire != len(raw)-HeaderSize {
				t.Errorf("%s: read as %+v", name, got)
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("%s: then %v", name, err)
			}
		}
	}
	for _, v := range f.Refused {
		if got, err := NewReader(bytes.NewReader(vectors.Hex(t, v.Hex))).Next(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v %v", v.Why, got.Type, err)
		}
	}
	// Split anywhere, and cut anywhere: nothing but frames and an end.
	random := rand.New(rand.NewSource(1))
	for i := 0; i < 200; i++ {
		r := NewReader(&splitter{all, random})
		for n := 0; n < len(f.Frames)+len(f.Compressed); n++ {
			if _, err := r.Next(); err != nil {
				t.Fatal(n, err)
			}
		}
	}
	for cut := 0; cut < len(all); cut += 7 {
		r := NewReader(bytes.NewReader(all[:cut]))
		err := error(nil)
		for err == nil {
			_, err = r.Next()
		}
		if err != io.EOF {
			t.Fatal(cut, err)
		}
	}
}

// splitter reads in pieces of random size.
type splitter struct {
	rest   []byte
	random *rand.Rand
}

func (s *splitter) Read(b []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.rest[:min(len(s.rest), 1+s.random.Intn(300))])
	s.rest = s.rest[n:]
	return n, nil
}

func TestGarbageFrames(t *testing.T) {
	random := rand.New(rand.NewSource(2))
	seeds := load(t).Frames
	for i := 0; i < 20000; i++ {
		raw := vectors.Hex(t, seeds[random.Intn(len(seeds))].Hex)
		for n := random.Intn(3); n >= 0; n-- {
			raw[random.Intn(min(len(raw), 20))] = byte(random.Intn(256))
		}
		r := NewReader(bytes.NewReader(raw))
		for {
			if _, err := r.Next(); err != nil {
				if err != io.EOF && !errors.Is(err, ErrProtocol) {
					t.Fatal(err)
				}
				break
			}
		}
	}
}

func TestDeflate(t *testing.T) {
	text := bytes.Repeat([]byte("abc "), 1000)
	small := Deflate(text)
	if small == nil {
		t.Fatal("not worth it?")
	}
	if back, err := inflate(small); err != nil || !bytes.Equal(back, text) {
		t.Fatal(err)
	}
	noise := make([]byte, 4096)
	rand.New(rand.NewSource(3)).Read(noise)
	if Deflate(noise) != nil || Deflate(text[:100]) != nil {
		t.Fatal("should be left alone")
	}
}

// gate is a channel that takes what it is allowed to.
type gate struct {
	mu   sync.Mutex
	cond sync.Cond
	open int
	busy bool // somebody is writing
	got  bytes.Buffer
}

func newGate() *gate {
	g := &gate{}
	g.cond.L = &g.mu
	return g
}

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy = true
	defer func() { g.busy = false }()
	for g.open == 0 {
		g.cond.Wait()
	}
	g.open--
	return g.got.Write(b)
}

func (g *gate) allow(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open += n
	g.cond.Broadcast()
}

func (g *gate) frames(t *testing.T) []Frame {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []Frame
	r := NewReader(bytes.NewReader(g.got.Bytes()))
	for {
		f, err := r.Next()
		if err != nil {
			return all
		}
		all = append(all, f)
	}
}

func waitFor(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for start := time.Now(); !ready(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal(what)
		}
	}
}

// TestPriority: a small frame passes the bulk data that the channel has not taken, and streams take turns.
func TestPriority(t *testing.T) {
	g := newGate()
	w := NewWriter(g, 1<<20)
	go w.Run()
	defer w.Close()
	one, two := w.Open(1), w.Open(2)
	for i := 0; i < 2; i++ {
		one.Data(0, make([]byte, 60000), 0, true)
		two.Data(0, make([]byte, 60000), 0, true)
	}
	waitFor(t, "the writer's first write", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.busy })
	w.Send(Pong, 0, []byte{0x90})
	g.allow(100)
	waitFor(t, "five frames", func() bool { return len(g.frames(t)) == 5 })
	order := ""
	for _, f := range g.frames(t) {
		order += string(rune('0' + f.ID))
	}
	if order != "10212" && order != "01212" {
		t.Fatal(order)
	}
}

// TestCredit: DATA never exceeds the window; raw frames are split, records wait; everything else passes.
func TestCredit(t *testing.T) {
	g := newGate()
	g.allow(1 << 20)
	w := NewWriter(g, 1000)
	go w.Run()
	defer w.Close()
	raw, record := w.Open(1), w.Open(2)
	raw.Data(0, make([]byte, 2500), 0, true)
	record.Data(0, make([]byte, 1500), 0, false)
	gone := make(chan int, 2)
	raw.Finish(Reply, []byte{1}, func() { gone <- 1 })
	record.Finish(Reply, []byte{2}, func() { gone <- 2 })
	count := func(id uint32) (n int) {
		for _, f := range g.frames(t) {
			if f.ID == id && f.Type == Data {
				n += len(f.Payload)
			}
		}
		return n
	}
	waitFor(t, "the first window", func() bool { return count(1) == 1000 })
	if count(2) != 0 {
		t.Fatal("a record was split")
	}
	w.Grant(2, 500)
	waitFor(t, "the record", func() bool { return count(2) == 1500 })
	w.Grant(1, 300)
	waitFor(t, "more", func() bool { return count(1) == 1300 })
	w.Grant(1, 100000)
	waitFor(t, "the rest", func() bool { return count(1) == 2500 })
	waitFor(t, "both ends", func() bool { return len(gone) == 2 })
	w.Grant(1, 5)
}

// TestAbandon: a cancelled stream loses its DATA but not the frame that ends it.
func TestAbandon(t *testing.T) {
	g := newGate()
	g.allow(1 << 20)
	w := NewWriter(g, 10)
	go w.Run()
	defer w.Close()
	s := w.Open(1)
	s.Data(0, make([]byte, 100), 0, false)
	s.Finish(Reply, []byte{0xc0}, func() {})
	s.Abandon()
	waitFor(t, "the reply", func() bool { f := g.frames(t); return len(f) == 1 && f[0].Type == Reply })
	stuck := w.Open(2)
	done := make(chan bool)
	go func() {
		for stuck.Data(0, make([]byte, 100000), 0, false) {
		}
		done <- true
	}()
	waitFor(t, "no room for more", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return stuck.held >= streamRoom })
	stuck.Abandon()
	<-done
}
