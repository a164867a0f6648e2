package apply

import (
	"encoding/binary"
	"hash/crc32"
	"syscall"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// outcome is what became of an operation.
type outcome struct {
	seq      int64
	errno    syscall.Errno
	attr     *root.Attr // of the object afterwards; on conflict what is there
	conflict bool
	other    *root.Attr // of an exchange: what the source's name has now
	event    uint64     // the last event that was decided before it; 0: not known (any more)
}

// failed tells whether operations that depend on this one are cancelled.
func (o *outcome) failed() bool { return o.errno != 0 }

const (
	flagConflict = 1
	flagReplayed = 2
)

// answer encodes the outcome for the client.
func (o *outcome) answer(b []byte, replayed bool) []byte {
	flags := int64(0)
	if o.conflict {
		flags |= flagConflict
	}
	if replayed {
		flags |= flagReplayed
	}
	b = msgpack.AppendInt(msgpack.AppendArray(b, 5), o.seq)
	b = root.AppendAttr(msgpack.AppendInt(b, int64(o.errno)), o.attr)
	return msgpack.AppendUint(msgpack.AppendInt(b, flags), o.event)
}

// A batch's log is a sequence of records: u32 length, u32 crc32 of the value, a MessagePack value, which is
//
//	["h", header]                             first
//	["o", seq, errno, attr, conflict, other]  the outcome of an operation, in order
//	["i", seq, ino]                           intent: this inode is about to be renamed by operation seq
//	["e"]                                     all operations have their outcome
//
// A torn tail, which only the end of the machine leaves, is the end of the log.
type batchLog struct {
	fd     int
	offset int64
	buf    []byte
}

// logRoom is what is reserved per operation: an outcome is about 130 bytes, but links have targets.
const logRoom = 192

// createLog makes the log of a batch in its directory, with room for all its outcomes.
func createLog(dir int, h header, operations int) (*batchLog, error) {
	fd, err := sys.Openat(dir, "log", syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Fallocate(fd, sys.FallocKeepSize, 0, int64(operations)*logRoom+4096)
	if err == syscall.EOPNOTSUPP || err == syscall.ENOSYS || err == syscall.EINTR {
		err = nil
	}
	l := &batchLog{fd: fd}
	if err == nil {
		err = l.append(h.append(msgpack.AppendStr(msgpack.AppendArray(l.record(), 2), "h")))
	}
	if err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return l, nil
}

// record returns the buffer to append a value to.
func (l *batchLog) record() []byte { return append(l.buf[:0], 0, 0, 0, 0, 0, 0, 0, 0) }

// append writes a record in one piece.
func (l *batchLog) append(b []byte) error {
	binary.BigEndian.PutUint32(b, uint32(len(b)-8))
	binary.BigEndian.PutUint32(b[4:], crc32.ChecksumIEEE(b[8:]))
	l.buf = b
	if l.fd < 0 {
		return nil // a plain call: no journal
	}
	if err := sys.PwriteAll(l.fd, b, l.offset); err != nil {
		return err
	}
	l.offset += int64(len(b))
	return nil
}

func (l *batchLog) outcome(o *outcome) error {
	if l.fd < 0 {
		return nil
	}
	b := msgpack.AppendStr(msgpack.AppendArray(l.record(), 6), "o")
	b = msgpack.AppendInt(msgpack.AppendInt(b, o.seq), int64(o.errno))
	b = msgpack.AppendBool(root.AppendAttr(b, o.attr), o.conflict)
	return l.append(root.AppendAttr(b, o.other))
}

func (l *batchLog) intent(seq int64, ino uint64) error {
	if l.fd < 0 {
		return nil
	}
	b := msgpack.AppendInt(msgpack.AppendStr(msgpack.AppendArray(l.record(), 3), "i"), seq)
	return l.append(msgpack.AppendUint(b, ino))
}

func (l *batchLog) end() error {
	if l.fd < 0 {
		return nil
	}
	return l.append(msgpack.AppendStr(msgpack.AppendArray(l.record(), 1), "e"))
}

func (l *batchLog) close() {
	if l.fd >= 0 {
		syscall.Close(l.fd)
	}
}

// replay is what a log says.
type replay struct {
	header   header
	whole    bool // has a header
	complete bool
	outcomes []outcome
	intents  map[int64]uint64
	length   int64 // of the part that is whole
}

// readLog reads a batch's log as far as it is whole.
func readLog(dir int, name string) (*replay, error) {
	content, err := readFile(dir, name)
	if err != nil {
		return nil, err
	}
	r := &replay{intents: map[int64]uint64{}}
	for rest := content; len(rest) >= 8; {
		n := int64(binary.BigEndian.Uint32(rest))
		if n == 0 || n > int64(len(rest)-8) || crc32.ChecksumIEEE(rest[8:8+n]) != binary.BigEndian.Uint32(rest[4:]) {
			break
		}
		v, err := msgpack.Decode(rest[8 : 8+n])
		if err != nil {
			break
		}
		r.take(v)
		rest = rest[8+n:]
		r.length += 8 + n
	}
	return r, nil
}

func (r *replay) take(v msgpack.Value) {
	switch string(v.At(0).Bytes) {
	case "h":
		r.header, r.whole = parseHeader(v.At(1)), true
	case "o":
		r.outcomes = append(r.outcomes, outcome{
			seq: v.At(1).Int, errno: syscall.Errno(v.At(2).Int), attr: root.ParseAttr(v.At(3)),
			conflict: v.At(4).Int != 0, other: root.ParseAttr(v.At(5)),
		})
	case "i":
		r.intents[v.At(1).Int] = uint64(v.At(2).Int)
	case "e":
		r.complete = true
	}
}
