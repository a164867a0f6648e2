package wire

import "io"

// Reader reads frames from a byte stream.
type Reader struct {
	src      io.Reader
	buf      []byte
	from, to int
}

// readBuffer: several small frames come in one read; a large payload is read straight to its place.
const readBuffer = 65536

// NewReader returns a reader of src.
func NewReader(src io.Reader) *Reader { return &Reader{src: src, buf: make([]byte, readBuffer)} }

// Next returns the next frame, whose payload is the caller's own. io.EOF: the stream ended, between frames or within one.
func (r *Reader) Next() (Frame, error) {
	for r.to-r.from < HeaderSize {
		if r.from > 0 {
			copy(r.buf, r.buf[r.from:r.to])
			r.from, r.to = 0, r.to-r.from
		}
		n, err := r.src.Read(r.buf[r.to:])
		if n == 0 {
			if err == nil {
				continue
			}
			return Frame{}, eof(err)
		}
		r.to += n
	}
	h := parseHeader(r.buf[r.from:])
	if err := h.check(); err != nil {
		return Frame{}, err
	}
	r.from += HeaderSize
	payload := make([]byte, h.length)
	n := copy(payload, r.buf[r.from:r.to])
	r.from += n
	if r.from == r.to {
		r.from, r.to = 0, 0
	}
	if n < h.length {
		if _, err := io.ReadFull(r.src, payload[n:]); err != nil {
			return Frame{}, eof(err)
		}
	}
	if h.flags&FlagZlib != 0 {
		var err error
		if payload, err = inflate(payload); err != nil {
			return Frame{}, err
		}
	}
	if err := h.checkPayload(payload); err != nil {
		return Frame{}, err
	}
	return Frame{Type: h.kind, Sub: h.flags >> substreamShift, ID: h.id, Payload: payload, Wire: h.length}, nil
}

func eof(err error) error {
	if err == io.ErrUnexpectedEOF {
		return io.EOF
	}
	return err
}
