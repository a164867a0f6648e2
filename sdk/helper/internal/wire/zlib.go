package wire

import (
	"bytes"
	"compress/zlib"
	"io"
	"sync"
)

var inflaters, deflaters sync.Pool

// inflate returns the content of a zlib stream that fills b exactly and inflates to at most MaxPayload bytes.
func inflate(b []byte) ([]byte, error) {
	source := bytes.NewReader(b)
	z, _ := inflaters.Get().(io.ReadCloser)
	var err error
	if z == nil {
		z, err = zlib.NewReader(source)
	} else {
		err = z.(zlib.Resetter).Reset(source, nil)
	}
	if err != nil {
		return nil, ErrProtocol
	}
	defer inflaters.Put(z)
	// A bytes.Reader is a ByteReader, so the inflater takes no more than its stream.
	var out bytes.Buffer
	n, err := out.ReadFrom(io.LimitReader(z, MaxPayload+1))
	if err != nil || n > MaxPayload || source.Len() != 0 {
		return nil, ErrProtocol
	}
	return out.Bytes(), nil
}

// worthDeflating: below this a frame costs a packet either way.
const worthDeflating = 512

// Deflate compresses a payload, or returns nil when that saves less than an eighth.
func Deflate(b []byte) []byte {
	if len(b) < worthDeflating {
		return nil
	}
	var out bytes.Buffer
	z, _ := deflaters.Get().(*zlib.Writer)
	if z == nil {
		z, _ = zlib.NewWriterLevel(&out, zlib.BestSpeed)
	} else {
		z.Reset(&out)
	}
	defer deflaters.Put(z)
	out.Grow(len(b) - len(b)/8 + 64)
	if _, err := z.Write(b); err != nil || z.Close() != nil || out.Len() > len(b)-len(b)/8 {
		return nil
	}
	return out.Bytes()
}
