// Package wire has the frames of the protocol (sdk/PROTOCOL.md section 2), a reader, and a writer that
// sends everything else before bulk data and bulk data in turns.
package wire

import (
	"encoding/binary"
	"errors"
)

// MaxPayload is the largest payload, compressed or not.
const MaxPayload = 131072

// HeaderSize is the size of a frame's header.
const HeaderSize = 10

// Type is a frame's type.
type Type byte

// The frame types.
const (
	Hello Type = iota + 1
	Welcome
	Request
	Data
	End
	Reply
	Error
	Credit
	Cancel
	Events
	Ping
	Pong
	Control
)

// The flags.
const (
	FlagZlib       = 0x01
	flagReserved   = 0x0e
	substreamShift = 4
)

// Magic precedes the helper's first frame.
const Magic = "\x00DBXHLP\n"

// maxPing is the longest payload of a PING.
const maxPing = 64

// ErrProtocol ends the connection.
var ErrProtocol = errors.New("wire: broken frame")

// Frame is a frame with its payload inflated. Wire is the payload's length as it was on the wire.
type Frame struct {
	Type    Type
	Sub     byte
	ID      uint32
	Payload []byte
	Wire    int
}

type header struct {
	length int
	kind   Type
	flags  byte
	id     uint32
}

func parseHeader(b []byte) header {
	return header{
		length: int(binary.BigEndian.Uint32(b)),
		kind:   Type(b[4]),
		flags:  b[5],
		id:     binary.BigEndian.Uint32(b[6:]),
	}
}

// check refuses what can be refused before the payload has been read.
func (h header) check() error {
	switch {
	case h.length > MaxPayload, h.kind < Hello, h.kind > Control, h.flags&flagReserved != 0:
		return ErrProtocol
	case h.flags>>substreamShift != 0 && h.kind != Data && h.kind != End:
		return ErrProtocol
	}
	switch h.kind {
	case Hello, Welcome, Ping, Pong:
		if h.id != 0 {
			return ErrProtocol
		}
	case Error:
	default:
		if h.id == 0 {
			return ErrProtocol
		}
	}
	return nil
}

// checkPayload refuses what the inflated payload shows.
func (h header) checkPayload(payload []byte) error {
	n := len(payload)
	switch {
	case (h.kind == End || h.kind == Cancel) && n != 0, h.kind == Credit && n != 4, h.kind == Ping && n > maxPing:
		return ErrProtocol
	}
	return nil
}

// AppendHeader appends a header.
func AppendHeader(b []byte, kind Type, flags byte, id uint32, length int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return binary.BigEndian.AppendUint32(append(b, byte(kind), flags), id)
}
