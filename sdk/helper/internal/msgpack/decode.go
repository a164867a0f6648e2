package msgpack

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// What is wrong with an encoded value. The helper treats all of them alike.
var (
	ErrCut      = errors.New("msgpack: value is cut")
	ErrTrailing = errors.New("msgpack: bytes after the value")
	ErrType     = errors.New("msgpack: type that the protocol does not use")
	ErrUTF8     = errors.New("msgpack: str is not UTF-8")
	ErrKey      = errors.New("msgpack: map key is not a str")
	ErrDepth    = errors.New("msgpack: nested too deep")
	ErrKind     = errors.New("msgpack: value of another type expected")
)

// maxDepth: the protocol's deepest value has 5 levels.
const maxDepth = 32

// Decode decodes exactly one value.
func Decode(b []byte) (Value, error) {
	r := Reader{B: b}
	v, err := r.Value()
	if err != nil {
		return Value{}, err
	}
	if r.Off != len(b) {
		return Value{}, ErrTrailing
	}
	return v, nil
}

// Reader decodes values one after another, so that a long array need not be held decoded at once.
type Reader struct {
	B   []byte
	Off int
}

// Value decodes the next value.
func (r *Reader) Value() (Value, error) { return r.value(0) }

// Array decodes the head of an array and returns its length, which is at most the number of bytes left.
func (r *Reader) Array() (int, error) {
	kind, n, err := r.head()
	if err != nil {
		return 0, err
	}
	if kind != Array {
		return 0, ErrKind
	}
	return n.count, nil
}

type content struct {
	count int
	num   int64
	big   bool
}

func (r *Reader) value(depth int) (Value, error) {
	if depth > maxDepth {
		return Value{}, ErrDepth
	}
	kind, c, err := r.head()
	if err != nil {
		return Value{}, err
	}
	v := Value{Kind: kind, Int: c.num, Big: c.big}
	switch kind {
	case Bin, Str:
		v.Bytes = r.B[r.Off : r.Off+c.count : r.Off+c.count]
		r.Off += c.count
		if kind == Str && !utf8.Valid(v.Bytes) {
			return Value{}, ErrUTF8
		}
	case Array, Map:
		n := c.count
		if kind == Map {
			n *= 2
		}
		if n == 0 {
			break
		}
		v.Items = make([]Value, n)
		for i := range v.Items {
			if v.Items[i], err = r.value(depth + 1); err != nil {
				return Value{}, err
			}
			if kind == Map && i%2 == 0 && v.Items[i].Kind != Str {
				return Value{}, ErrKey
			}
		}
	}
	return v, nil
}

// head reads a value's first bytes. A count it returns is never larger than the bytes that are left, so a
// caller may allocate by it.
func (r *Reader) head() (Kind, content, error) {
	if r.Off >= len(r.B) {
		return 0, content{}, ErrCut
	}
	code := r.B[r.Off]
	r.Off++
	switch {
	case code < 0x80:
		return Int, content{num: int64(code)}, nil
	case code < 0x90:
		return r.counted(Map, uint64(code&15), 2)
	case code < 0xa0:
		return r.counted(Array, uint64(code&15), 1)
	case code < 0xc0:
		return r.counted(Str, uint64(code&31), 1)
	case code >= 0xe0:
		return Int, content{num: int64(int8(code))}, nil
	}
	switch code {
	case 0xc0:
		return Nil, content{}, nil
	case 0xc2:
		return Bool, content{}, nil
	case 0xc3:
		return Bool, content{num: 1}, nil
	case 0xc4, 0xc5, 0xc6:
		return r.sized(Bin, 1<<(code-0xc4), 1)
	case 0xd9, 0xda, 0xdb:
		return r.sized(Str, 1<<(code-0xd9), 1)
	case 0xdc, 0xdd:
		return r.sized(Array, 2<<(code-0xdc), 1)
	case 0xde, 0xdf:
		return r.sized(Map, 2<<(code-0xde), 2)
	case 0xcc, 0xcd, 0xce, 0xcf:
		u, err := r.uint(1 << (code - 0xcc))
		return Int, content{num: int64(u), big: u > 1<<63-1}, err
	case 0xd0, 0xd1, 0xd2, 0xd3:
		size := 1 << (code - 0xd0)
		u, err := r.uint(size)
		shift := 64 - 8*size
		return Int, content{num: int64(u<<shift) >> shift}, err
	}
	return 0, content{}, ErrType
}

func (r *Reader) sized(kind Kind, width, each int) (Kind, content, error) {
	n, err := r.uint(width)
	if err != nil {
		return 0, content{}, err
	}
	return r.counted(kind, n, each)
}

func (r *Reader) counted(kind Kind, n uint64, each int) (Kind, content, error) {
	if n > uint64(len(r.B)-r.Off)/uint64(each) {
		return 0, content{}, ErrCut
	}
	return kind, content{count: int(n)}, nil
}

func (r *Reader) uint(width int) (uint64, error) {
	if len(r.B)-r.Off < width {
		return 0, ErrCut
	}
	b := r.B[r.Off:]
	r.Off += width
	switch width {
	case 1:
		return uint64(b[0]), nil
	case 2:
		return uint64(binary.BigEndian.Uint16(b)), nil
	case 4:
		return uint64(binary.BigEndian.Uint32(b)), nil
	}
	return binary.BigEndian.Uint64(b), nil
}
