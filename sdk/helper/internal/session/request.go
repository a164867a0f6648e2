package session

import (
	"io"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/wire"
)

// Request is a request that is running. Its handler has a goroutine of its own.
type Request struct {
	ID   uint32
	Op   string
	Args msgpack.Value // the whole payload: At(0) is op
	// Event goes into the REPLY; the handler sets it before its first system call.
	Event uint64

	conn   *Conn
	stream *wire.Stream

	mu        sync.Mutex
	arrived   sync.Cond
	inbox     [][]byte
	wireSizes []int
	ended     bool
	cancelled bool
	done      chan struct{} // closed by CANCEL and by the end of the connection
	controls  []msgpack.Value
	onControl func(msgpack.Value)
	received  int64 // DATA bytes as on the wire
	granted   int64
	consumed  int64

	packing packing // of its records
}

// packing remembers whether compressing has paid of late.
type packing struct {
	incompressible atomic.Int32 // DATA frames in a row that did not shrink
	frames         atomic.Int32
}

// Window is what the helper lets a client send ahead for each request.
const Window = 4 << 20

// grantStep: CREDIT is given back in pieces of at least this size.
const grantStep = 128 << 10

func newRequest(c *Conn, id uint32) *Request {
	r := &Request{ID: id, conn: c, stream: c.out.Open(id), done: make(chan struct{}), granted: Window}
	r.arrived.L = &r.mu
	return r
}

// Done is closed when the client no longer wants the answer.
func (r *Request) Done() <-chan struct{} { return r.done }

// Cancelled tells whether Done is closed.
func (r *Request) Cancelled() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (r *Request) cancel() {
	r.mu.Lock()
	already := r.cancelled
	r.cancelled = true
	r.arrived.Broadcast()
	r.mu.Unlock()
	if !already {
		r.stream.Abandon()
		close(r.done)
	}
}

// deliver takes a DATA frame of the client. False: the client exceeded its window.
func (r *Request) deliver(payload []byte, wireSize int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.received += int64(wireSize)
	if r.received > r.granted {
		return false
	}
	if !r.ended && !r.cancelled {
		r.inbox = append(r.inbox, payload)
		r.wireSizes = append(r.wireSizes, wireSize)
		r.arrived.Signal()
	}
	return true
}

func (r *Request) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.arrived.Signal()
}

// Receive returns the client's next DATA payload, which is the caller's own; io.EOF after the client's END, ECANCELED
// when the request was cancelled. What is received counts as consumed when Receive is called again.
func (r *Request) Receive() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if grant := r.consumed + Window - r.granted; grant >= grantStep {
		r.granted += grant
		r.conn.out.Send(wire.Credit, r.ID, wire.CreditPayload(uint32(grant)))
	}
	for len(r.inbox) == 0 {
		if r.cancelled {
			return nil, syscall.ECANCELED
		}
		if r.ended {
			return nil, io.EOF
		}
		r.arrived.Wait()
	}
	payload := r.inbox[0]
	r.consumed += int64(r.wireSizes[0])
	r.inbox[0] = nil
	r.inbox, r.wireSizes = r.inbox[1:], r.wireSizes[1:]
	return payload, nil
}

// OnControl has f called with each CONTROL frame, those that came before included. f must not block.
func (r *Request) OnControl(f func(msgpack.Value)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onControl = f
	for _, v := range r.controls {
		f(v)
	}
	r.controls = nil
}

// maxEarlyControls: CONTROL frames kept for a handler that has not asked for them yet.
const maxEarlyControls = 64

func (r *Request) control(v msgpack.Value) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.onControl != nil {
		r.onControl(v)
	} else if len(r.controls) < maxEarlyControls {
		r.controls = append(r.controls, v)
	}
}

// Record sends one MessagePack value as a DATA frame. The payload must not be used afterwards.
func (r *Request) Record(payload []byte) error { return r.send(0, payload, false) }

// Raw sends raw bytes as DATA of a substream. The payload must not be used afterwards.
func (r *Request) Raw(sub byte, payload []byte) error { return r.send(sub, payload, true) }

func (r *Request) send(sub byte, payload []byte, raw bool) error {
	var flags byte
	// Contents that do not shrink are mostly followed by more of the same, also in the next request: a large file is read
	// in pieces of a few frames.
	p := &r.packing
	if raw {
		p = &r.conn.packing
	}
	n := p.frames.Add(1)
	if r.conn.compress.Load() && (p.incompressible.Load() < 4 || n%16 == 0) {
		if small := wire.Deflate(payload); small != nil {
			payload, flags = small, wire.FlagZlib
			p.incompressible.Store(0)
		} else {
			p.incompressible.Add(1)
		}
	}
	if !r.stream.Data(sub, payload, flags, raw) {
		return syscall.ECANCELED
	}
	return nil
}

// Events sends an EVENTS frame and waits until the channel has taken it.
func (r *Request) Events(payload []byte) bool {
	r.conn.out.Send(wire.Events, r.ID, payload)
	return r.conn.out.WaitHanded()
}

// run calls the handler and ends the request, whatever happens.
func (r *Request) run(handler Handler) {
	defer r.conn.running.Done()
	result, err := r.protect(handler)
	if err == nil {
		b := msgpack.AppendUint(msgpack.AppendArray(nil, 2), r.Event)
		if result == nil {
			result = []byte{0xc0}
		}
		r.stream.Finish(wire.Reply, append(b, result...), r.gone)
		return
	}
	r.stream.Finish(wire.Error, errorPayload(err), r.gone)
}

// gone runs under the writer's lock; that of the connection comes after it.
func (r *Request) gone() {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	delete(r.conn.requests, r.ID)
}

// protect turns a bug in a handler into an EIO of that request: the other requests, and what is being applied, go on.
func (r *Request) protect(handler Handler) (result []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.conn.complain(p, debug.Stack())
			result, err = nil, Fail(syscall.EIO, "internal error in "+r.Op)
		}
	}()
	return handler(r)
}

func errorPayload(err error) []byte {
	b := msgpack.AppendInt(msgpack.AppendArray(nil, 2), int64(Errno(err)))
	// It may name a file, and names are bytes.
	return msgpack.AppendStr(b, strings.ToValidUTF8(err.Error(), "?"))
}
