package files

import (
	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/session"
)

// RecordTarget is the size at which a record of many small values is sent: large enough that frames cost nothing,
// small enough that the first one leaves early. No single value may exceed what is then left of a payload.
const RecordTarget = 48 << 10

// Records collects values and sends them as DATA records: an array of them, after an optional event number.
type Records struct {
	r     *session.Request
	event func() uint64 // nil: the record is the array itself; else [event, array]
	stamp uint64
	buf   []byte
	count int
}

// headRoom is what the heads take at most: array of 2, event, array of n.
const headRoom = 1 + 9 + 5

// NewRecords returns an empty collection.
func NewRecords(r *session.Request, event func() uint64) *Records {
	return &Records{r: r, event: event}
}

// Value returns the buffer to append the next value to; Done takes it back.
func (c *Records) Value() []byte {
	if c.buf == nil {
		c.buf = make([]byte, headRoom, RecordTarget+16<<10)
	}
	if c.count == 0 && c.event != nil {
		c.stamp = c.event()
	}
	return c.buf
}

// Done ends a value, and sends the record if it is large enough.
func (c *Records) Done(buf []byte) error {
	c.buf = buf
	c.count++
	if len(c.buf) >= RecordTarget {
		return c.Flush()
	}
	return nil
}

// Len is the size of what is collected.
func (c *Records) Len() int { return len(c.buf) }

// Flush sends what is collected.
func (c *Records) Flush() error {
	if c.count == 0 {
		return nil
	}
	var head []byte
	if c.event != nil {
		head = msgpack.AppendUint(msgpack.AppendArray(head, 2), c.stamp)
	}
	head = msgpack.AppendArray(head, c.count)
	start := headRoom - len(head)
	copy(c.buf[start:], head)
	payload := c.buf[start:]
	c.buf, c.count = nil, 0
	return c.r.Record(payload)
}
