package apply

import (
	"sealos.io/devbox-helper/internal/files"
	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/session"
)

// call is the arguments of an apply request.
type call struct {
	journal    string
	generation int64
	acked      int64
	header
}

func parseCall(r *session.Request) (call, error) {
	var c call
	id, inc := r.Args.At(1), r.Args.At(2)
	if id.IsNil() {
		return c, nil
	}
	if id.Kind != msgpack.Bin || len(id.Bytes) != 16 || inc.Kind != msgpack.Bin || len(inc.Bytes) != 16 {
		return c, session.Invalid("journal and incarnation are bins of 16 bytes")
	}
	c.journal = journalID(id.Bytes)
	copy(c.incarnation[:], inc.Bytes)
	var err error
	number := func(i int) int64 {
		n, e := files.Int(r.Args.At(i), 0)
		if e != nil {
			err = e
		}
		return n
	}
	c.generation, c.batch, c.acked = number(3), number(4), number(5)
	if !r.Args.At(6).IsNil() {
		n := number(6)
		c.resume = &n
	}
	bypass, e := files.Bool(r.Args.At(7))
	if e != nil {
		err = e
	}
	c.bypass = bypass
	return c, err
}
