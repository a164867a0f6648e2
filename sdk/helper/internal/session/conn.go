// Package session is the helper's end of a connection: handshake, requests in flight, cancellation, heartbeat
// (sdk/PROTOCOL.md sections 2 and 3). It knows no operation.
package session

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/wire"
)

// Protocol is the version of the protocol.
const Protocol = 1

// MaxRequests is the number of requests in flight.
const MaxRequests = 256

// Exit statuses (section 9).
const (
	ExitEOF      = 0
	ExitProtocol = 3
)

// Handler runs one request and returns its encoded result (nil: nil).
type Handler func(*Request) ([]byte, error)

// Config is what a connection needs to know.
type Config struct {
	In       io.Reader
	Out      io.Writer
	Welcome  []byte             // the encoded WELCOME map
	Handlers map[string]Handler // by operation
	// Ordered are called in the order in which requests come, before their handlers, which run all at the same time.
	// They must not block.
	Ordered map[string]func(*Request)
	Pong    func(b []byte) []byte
}

// Conn is a connection.
type Conn struct {
	config   Config
	out      *wire.Writer
	compress atomic.Bool
	packing  packing // of contents

	mu       sync.Mutex
	requests map[uint32]*Request
	running  sync.WaitGroup

	pings     chan []byte
	arrived   atomic.Int64 // when the last frame came, in ns of the monotonic clock
	heartbeat atomic.Int64
	paced     chan struct{} // the heartbeat was set
	start     time.Time
}

const (
	defaultWindow    = 1 << 20
	defaultHeartbeat = 10 * time.Second
	shortest         = 20 * time.Millisecond // a heartbeat below it would be a busy loop
)

// New returns a connection; nothing is sent yet.
func New(config Config) *Conn {
	c := &Conn{config: config, out: wire.NewWriter(config.Out, defaultWindow), requests: map[uint32]*Request{}}
	c.pings, c.paced = make(chan []byte, 16), make(chan struct{}, 1)
	c.heartbeat.Store(int64(defaultHeartbeat))
	c.start = time.Now()
	return c
}

// Serve runs the connection and returns the exit status. Requests may still be running: see Stop.
func (c *Conn) Serve() int {
	c.out.Prologue(wire.Magic)
	c.out.Send(wire.Welcome, 0, c.config.Welcome)
	failed := make(chan int, 3)
	go func() {
		c.out.Run()
		failed <- ExitEOF // the channel is closed from the other end
	}()
	go c.beat(failed)
	go c.pong()
	go func() { failed <- c.read() }()
	status := <-failed
	c.cancelAll()
	return status
}

// Stop ends the writer.
func (c *Conn) Stop() { c.out.Close() }

// WaitRequests waits until no request is running, at most for the given time.
func (c *Conn) WaitRequests(limit time.Duration) {
	over := make(chan struct{})
	go func() {
		c.running.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(limit):
	}
}

func (c *Conn) read() int {
	reader := wire.NewReader(c.config.In)
	greeted := false
	for {
		frame, err := reader.Next()
		if errors.Is(err, wire.ErrProtocol) {
			return c.refuse(syscall.EPROTO, "broken frame")
		}
		if err != nil {
			return ExitEOF
		}
		c.arrived.Store(int64(time.Since(c.start)))
		if !greeted {
			if frame.Type != wire.Hello {
				return c.refuse(syscall.EPROTO, "HELLO expected")
			}
			if status := c.hello(frame.Payload); status != ExitEOF {
				return status
			}
			greeted = true
			continue
		}
		if !c.dispatch(frame) {
			return c.refuse(syscall.EPROTO, "frame out of place")
		}
	}
}

func (c *Conn) hello(payload []byte) int {
	v, err := msgpack.Decode(payload)
	if err != nil || v.Kind != msgpack.Map {
		return c.refuse(syscall.EPROTO, "HELLO is no map")
	}
	if p := v.Get("protocol"); p.Kind != msgpack.Int || p.Int != Protocol {
		return c.refuse(syscall.EPROTONOSUPPORT, "this helper speaks protocol 1")
	}
	if w := v.Get("window"); w.Kind == msgpack.Int && w.Int >= 0 && !w.Big {
		c.out.SetWindow(w.Int)
	}
	if h := v.Get("heartbeat_ms"); h.Kind == msgpack.Int && h.Int > 0 && h.Int <= 1<<31 {
		c.heartbeat.Store(int64(max(time.Duration(h.Int)*time.Millisecond, shortest)))
		c.paced <- struct{}{}
	}
	c.compress.Store(v.Get("compress").Kind == msgpack.Bool && v.Get("compress").Int != 0)
	return ExitEOF
}

// refuse says why before the connection ends, if the channel takes it in time.
func (c *Conn) refuse(errno syscall.Errno, text string) int {
	c.out.Send(wire.Error, 0, errorPayload(Fail(errno, text)))
	handed := make(chan struct{})
	go func() {
		c.out.WaitHanded()
		close(handed)
	}()
	select {
	case <-handed:
	case <-time.After(200 * time.Millisecond):
	}
	return ExitProtocol
}

// dispatch handles a frame. Frames for a request that has ended are ignored: they crossed its answer. False: protocol error.
func (c *Conn) dispatch(f wire.Frame) bool {
	switch f.Type {
	case wire.Request:
		return c.begin(f)
	case wire.Ping:
		select {
		case c.pings <- f.Payload:
		default: // a client that pings faster than it reads gets fewer answers
		}
		return true
	case wire.Pong:
		return true
	case wire.Credit:
		c.out.Grant(f.ID, binary.BigEndian.Uint32(f.Payload))
		return true
	case wire.Data, wire.End, wire.Cancel, wire.Control:
	default:
		return false
	}
	c.mu.Lock()
	r := c.requests[f.ID]
	c.mu.Unlock()
	if r == nil {
		return true
	}
	switch f.Type {
	case wire.Data:
		return r.deliver(f.Payload, f.Wire)
	case wire.End:
		r.end()
	case wire.Cancel:
		r.cancel()
	case wire.Control:
		v, err := msgpack.Decode(f.Payload)
		if err != nil {
			return false
		}
		r.control(v)
	}
	return true
}

func (c *Conn) begin(f wire.Frame) bool {
	c.mu.Lock()
	used, full := c.requests[f.ID] != nil, len(c.requests) >= MaxRequests
	c.mu.Unlock()
	// Only this goroutine adds requests, so both stay true.
	if used {
		return false
	}
	if full {
		c.out.Send(wire.Error, f.ID, errorPayload(Fail(syscall.EAGAIN, "too many requests in flight")))
		return true
	}
	r := newRequest(c, f.ID)
	c.mu.Lock()
	c.requests[f.ID] = r
	c.running.Add(1)
	c.mu.Unlock()
	handler := c.handler(r, f.Payload)
	if ordered := c.config.Ordered[r.Op]; ordered != nil {
		ordered(r)
	}
	go r.run(handler)
	return true
}

func (c *Conn) handler(r *Request, payload []byte) Handler {
	v, err := msgpack.Decode(payload)
	if err != nil || v.Kind != msgpack.Array || v.At(0).Kind != msgpack.Str {
		return func(*Request) ([]byte, error) { return nil, Invalid("a request is [op, args...]") }
	}
	r.Args, r.Op = v, string(v.At(0).Bytes)
	if h := c.config.Handlers[r.Op]; h != nil {
		return h
	}
	return func(*Request) ([]byte, error) { return nil, Fail(syscall.EOPNOTSUPP, "unknown operation") }
}

func (c *Conn) cancelAll() {
	c.mu.Lock()
	var all []*Request
	for _, r := range c.requests {
		all = append(all, r)
	}
	c.mu.Unlock()
	for _, r := range all {
		r.cancel()
	}
}

// pongBacklog: PONGs are not queued behind so much that the channel has not taken.
const pongBacklog = 1 << 20

func (c *Conn) pong() {
	for echo := range c.pings {
		if c.out.Backlog() < pongBacklog {
			b := msgpack.AppendBin(msgpack.AppendArray(nil, 6), echo)
			c.out.Send(wire.Pong, 0, c.config.Pong(b))
		}
	}
}

// beat pings when nothing was sent for a while, and gives up when nothing came for three times as long.
func (c *Conn) beat(dead chan<- int) {
	lastSent := time.Now()
	for {
		interval := time.Duration(c.heartbeat.Load())
		select {
		case <-time.After(min(interval/4, time.Second)):
		case <-c.paced:
			continue
		}
		if c.out.TakeSent() {
			lastSent = time.Now()
		}
		if time.Since(lastSent) >= interval && c.out.Backlog() == 0 {
			c.out.Send(wire.Ping, 0, nil)
			lastSent = time.Now()
		}
		if time.Since(c.start)-time.Duration(c.arrived.Load()) > 3*interval {
			dead <- ExitEOF
			return
		}
	}
}

func (c *Conn) complain(p any, stack []byte) {
	text := "devbox-helper: internal error: "
	if e, ok := p.(error); ok {
		text += e.Error()
	} else if s, ok := p.(string); ok {
		text += s
	}
	os.Stderr.WriteString(text + "\n" + string(stack))
}
