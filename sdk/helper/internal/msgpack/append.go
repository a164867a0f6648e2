// Package msgpack implements the subset of MessagePack that the protocol uses: nil, bool, int, bin, str,
// array, and map with str keys. Values are encoded in their shortest form; decoding accepts longer forms.
//
// https://github.com/msgpack/msgpack/blob/master/spec.md
package msgpack

import "encoding/binary"

// AppendNil appends nil.
func AppendNil(b []byte) []byte { return append(b, 0xc0) }

// AppendBool appends a boolean.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 0xc3)
	}
	return append(b, 0xc2)
}

// AppendInt appends a signed integer.
func AppendInt(b []byte, v int64) []byte {
	switch {
	case v >= 0:
		return AppendUint(b, uint64(v))
	case v >= -32:
		return append(b, byte(v))
	case v >= -1<<7:
		return append(b, 0xd0, byte(v))
	case v >= -1<<15:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(v))
	case v >= -1<<31:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(v))
}

// AppendUint appends an unsigned integer.
func AppendUint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<7:
		return append(b, byte(v))
	case v < 1<<8:
		return append(b, 0xcc, byte(v))
	case v < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(v))
	case v < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), v)
}

// AppendStr appends a string, which must be UTF-8.
func AppendStr(b []byte, v string) []byte {
	if len(v) < 32 {
		return append(append(b, 0xa0|byte(len(v))), v...)
	}
	return append(appendHead(b, len(v), 0xd9), v...)
}

// AppendBin appends bytes.
func AppendBin(b, v []byte) []byte { return append(appendHead(b, len(v), 0xc4), v...) }

// AppendBinString appends the bytes of a string as a bin.
func AppendBinString(b []byte, v string) []byte { return append(appendHead(b, len(v), 0xc4), v...) }

// appendHead writes the length of a bin or str: code8 is the code of the 8-bit form, the wider ones follow it.
func appendHead(b []byte, n int, code8 byte) []byte {
	switch {
	case n < 1<<8:
		return append(b, code8, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, code8+1), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, code8+2), uint32(n))
}

// AppendArray appends the head of an array of n values.
func AppendArray(b []byte, n int) []byte { return appendContainer(b, n, 0x90, 0xdc) }

// AppendMap appends the head of a map of n pairs.
func AppendMap(b []byte, n int) []byte { return appendContainer(b, n, 0x80, 0xde) }

func appendContainer(b []byte, n int, fix, code16 byte) []byte {
	switch {
	case n < 16:
		return append(b, fix|byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, code16), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, code16+1), uint32(n))
}
