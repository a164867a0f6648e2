package wire

import (
	"encoding/binary"
	"io"
	"sync"
)

// Writer sends frames. Everything but DATA goes first, in the order it was given; DATA goes as far as the peer's
// credit allows, one frame of each stream in turn. A frame that follows a stream's DATA (its END and the REPLY
// or ERROR that ends the request) stays behind it.
//
// One goroutine runs Run. Nothing else ever waits for the peer but Stream.Data and WaitHanded.
type Writer struct {
	dst    io.Writer
	window int64

	mu       sync.Mutex
	wake     sync.Cond // Run waits here
	control  []byte    // encoded frames that go first
	streams  map[uint32]*Stream
	ready    []*Stream // have something that may be sent, in turn
	closed   bool
	handed   uint64 // frames of control given to the channel, in batches: see Barrier
	queued   uint64
	taken    sync.Cond // somebody waits for room, or for handed
	sentAny  bool      // since the last TakeSent
	writeErr error
}

// streamRoom is how much DATA a stream holds beyond what the channel has taken: the producer fills it while
// the writer writes.
const streamRoom = 2 * MaxPayload

// writeBatch is the most DATA in one write: a control frame that arrives meanwhile waits for that much.
const writeBatch = 65536

// NewWriter returns a writer whose streams start with the given window.
func NewWriter(dst io.Writer, window int64) *Writer {
	w := &Writer{dst: dst, window: window, streams: map[uint32]*Stream{}}
	w.wake.L, w.taken.L = &w.mu, &w.mu
	return w
}

// Prologue queues bytes that are no frame (the magic), before anything else.
func (w *Writer) Prologue(b string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.control = append(w.control, b...)
	w.wake.Signal()
}

// SetWindow sets the window that streams opened from now on start with.
func (w *Writer) SetWindow(window int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.window = window
}

// Send queues a frame other than DATA. It never blocks; its callers are bounded by the number of requests.
func (w *Writer) Send(kind Type, id uint32, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sendLocked(kind, 0, id, payload)
}

func (w *Writer) sendLocked(kind Type, flags byte, id uint32, payload []byte) {
	w.control = append(AppendHeader(w.control, kind, flags, id, len(payload)), payload...)
	w.queued++
	w.wake.Signal()
}

// Backlog is the number of bytes queued by Send that the channel has not taken.
func (w *Writer) Backlog() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.control)
}

// WaitHanded waits until everything queued by Send so far was given to the channel. False: the writer is closed.
func (w *Writer) WaitHanded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for target := w.queued; w.handed < target; w.taken.Wait() {
		if w.closed {
			return false
		}
	}
	return !w.closed
}

// TakeSent tells whether anything was sent since it was last asked.
func (w *Writer) TakeSent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := w.sentAny
	w.sentAny = false
	return sent
}

// Close makes Run return, and every waiting producer.
func (w *Writer) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.wake.Broadcast()
	w.taken.Broadcast()
}

// Run writes until Close or until the channel fails.
func (w *Writer) Run() error {
	var out []byte
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.control) == 0 && len(w.ready) == 0 && !w.closed {
			w.wake.Wait()
		}
		if w.closed {
			return w.writeErr
		}
		out, w.control = w.control, out[:0]
		last := w.queued
		var bulk []byte
		for data := 0; data < writeBatch && len(w.ready) > 0; {
			s := w.ready[0]
			w.ready = w.ready[1:]
			s.isReady = false
			n := 0
			n, out, bulk = s.take(out)
			data += n
			s.enlist()
			if bulk != nil {
				break // written without being copied
			}
		}
		w.taken.Broadcast()
		w.sentAny = true
		w.mu.Unlock()
		_, err := w.dst.Write(out)
		if err == nil && bulk != nil {
			_, err = w.dst.Write(bulk)
			recycle(bulk)
		}
		if cap(out) > 4*writeBatch {
			out = nil
		}
		w.mu.Lock()
		w.handed = last
		w.taken.Broadcast()
		if err != nil {
			w.writeErr, w.closed = err, true
		}
	}
}

// Stream is the DATA of one request towards the client.
type Stream struct {
	w       *Writer
	id      uint32
	credit  int64
	queue   []piece
	held    int // bytes in queue
	isReady bool
	dead    bool // nothing more is sent: the request was cancelled
	gone    func()
}

type piece struct {
	kind    Type
	flags   byte
	split   bool // raw bytes: may be sent in part
	payload []byte
}

// Open starts the stream of a request.
func (w *Writer) Open(id uint32) *Stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &Stream{w: w, id: id, credit: w.window}
	w.streams[id] = s
	return s
}

// Grant adds credit to a stream; an id that is not open any more is nobody's fault.
func (w *Writer) Grant(id uint32, n uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.streams[id]; s != nil {
		s.credit += int64(n)
		s.enlist()
	}
}

// Data queues a DATA frame, of which the stream becomes the owner. It waits while the stream holds more than its
// room. raw: the payload may be sent in several frames. False: the request was cancelled or the connection ended.
func (s *Stream) Data(sub byte, payload []byte, flags byte, raw bool) bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for s.held >= streamRoom && !s.dead && !s.w.closed {
		s.w.taken.Wait()
	}
	if s.dead || s.w.closed {
		return false
	}
	s.push(piece{Data, flags | sub<<substreamShift, raw && flags&FlagZlib == 0, payload})
	return true
}

// Abandon drops the DATA that is queued and makes Data return false. The frame that ends the request is kept.
func (s *Stream) Abandon() {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.dead = true
	if n := len(s.queue); n > 0 && s.queue[n-1].kind != Data {
		s.remove()
		s.w.sendLocked(s.queue[n-1].kind, 0, s.id, s.queue[n-1].payload)
	}
	s.queue, s.held = nil, 0
	s.w.taken.Broadcast()
}

// Drained waits until all DATA was taken by the channel. False: cancelled or closed.
func (s *Stream) Drained() bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for len(s.queue) > 0 && !s.dead && !s.w.closed {
		s.w.taken.Wait()
	}
	return !s.dead && !s.w.closed
}

// Finish queues the frame that ends the request, behind the stream's DATA, and closes the stream after it. gone is
// called before the frame can reach the peer, who may then use the id again; it must not call the writer.
func (s *Stream) Finish(kind Type, payload []byte, gone func()) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.gone = gone
	if len(s.queue) == 0 {
		s.remove()
		s.w.sendLocked(kind, 0, s.id, payload)
		return
	}
	s.push(piece{kind: kind, payload: payload})
}

func (s *Stream) remove() {
	delete(s.w.streams, s.id)
	s.gone()
}

func (s *Stream) push(p piece) {
	s.queue = append(s.queue, p)
	s.held += len(p.payload)
	s.enlist()
}

// enlist puts the stream in the turn if its first piece may be sent.
func (s *Stream) enlist() {
	if s.isReady || len(s.queue) == 0 {
		return
	}
	p := s.queue[0]
	if p.kind == Data && s.credit < int64(len(p.payload)) && (!p.split || s.credit <= 0) {
		return
	}
	s.isReady = true
	s.w.ready = append(s.w.ready, s)
	s.w.wake.Signal()
}

// largeCopy: payloads of at least this size are written from where they are.
const largeCopy = 32768

// take moves the first piece to out, or returns its payload as bulk with only the header in out.
func (s *Stream) take(out []byte) (int, []byte, []byte) {
	if len(s.queue) == 0 {
		return 0, out, nil
	}
	p := &s.queue[0]
	payload, whole := p.payload, true
	if p.kind == Data {
		if int64(len(payload)) > s.credit {
			payload, whole = payload[:s.credit:s.credit], false // its buffer is not free yet
		}
		s.credit -= int64(len(payload))
	}
	kind := p.kind
	out = AppendHeader(out, kind, p.flags, s.id, len(payload))
	s.held -= len(payload)
	if whole {
		s.queue[0] = piece{}
		s.queue = s.queue[1:]
		if len(s.queue) == 0 {
			s.queue = nil
		}
	} else {
		p.payload = p.payload[len(payload):]
	}
	if kind != Data {
		s.remove()
	}
	if len(payload) >= largeCopy {
		return len(payload), out, payload
	}
	return len(payload), append(out, payload...), nil
}

var buffers = sync.Pool{New: func() any { return new([MaxPayload]byte) }}

// Buffer returns a buffer for the payload of a raw DATA frame; the writer takes it back.
func Buffer() []byte { return buffers.Get().(*[MaxPayload]byte)[:] }

func recycle(b []byte) {
	if cap(b) == MaxPayload {
		buffers.Put((*[MaxPayload]byte)(b[:MaxPayload]))
	}
}

// CreditPayload encodes the payload of a CREDIT frame.
func CreditPayload(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
