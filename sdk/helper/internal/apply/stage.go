package apply

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strconv"
	"syscall"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
)

// staged is a content that has arrived.
type staged struct {
	ino   uint64
	size  int64
	mtime int64
	mode  uint32
	sum   []byte // of contents up to maxSum
}

// maxSum is the size up to which attrs carry digests.
const maxSum = 4 << 20

// staging is a batch that is arriving: a directory in which its contents are written. It becomes the batch's directory
// when the batch is accepted, and is removed when it is not.
type staging struct {
	parent   int // the directory it is in
	name     string
	fd       int
	raw      []byte // the encoded manifest
	manifest *manifest
	contents map[int]staged
}

func randomName() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

const stagingPrefix = "new-"

func newStaging(parent int) (*staging, error) {
	s := &staging{parent: parent, name: stagingPrefix + randomName(), contents: map[int]staged{}}
	if err := sys.Mkdirat(parent, s.name, 0o700); err != nil {
		return nil, err
	}
	fd, err := sys.Openat(parent, s.name, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		sys.Unlinkat(parent, s.name, sys.AtRemovedir)
		return nil, err
	}
	s.fd = fd
	return s, nil
}

// discard removes what has been staged.
func (s *staging) discard() {
	removeTree(s.parent, s.name)
	syscall.Close(s.fd)
}

// receive reads the client's archive to its end.
func (s *staging) receive(next source, own incarnation) error {
	t := &tarReader{next: next}
	m, more, err := t.header()
	if err != nil {
		return err
	}
	if !more || m.name != "manifest" || m.size > maxManifest {
		return session.Invalid("the first member is the manifest, of at most 16 MiB")
	}
	raw, err := t.bytes(int(m.size))
	if err != nil {
		return err
	}
	s.raw = append([]byte(nil), raw...)
	if s.manifest, err = parseManifest(s.raw, own); err != nil {
		return err
	}
	if err := t.skip(padding(m.size)); err != nil {
		return err
	}
	for {
		m, more, err := t.header()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := s.content(t, m); err != nil {
			return err
		}
	}
	if len(s.contents) != len(s.manifest.contents) {
		return session.Invalid("a content that an operation refers to is missing")
	}
	return nil
}

// content writes one member under its number.
func (s *staging) content(t *tarReader, m member) error {
	number, err := strconv.Atoi(m.name)
	if err != nil || strconv.Itoa(number) != m.name {
		return session.Invalid("members are named by their number")
	}
	if _, twice := s.contents[number]; twice {
		return session.Invalid("a content comes once")
	}
	index, wanted := s.manifest.contents[number]
	if !wanted {
		return session.Invalid("a content that no operation refers to")
	}
	mode := uint32(0o600)
	if s.manifest.operations[index].kind == "put" {
		mode = m.mode
	}
	fd, err := sys.Openat(s.fd, m.name, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	var digest hash.Hash
	if m.size <= maxSum {
		digest = sha256.New()
	}
	err = t.pieces(m.size, func(piece []byte) error {
		if digest != nil {
			digest.Write(piece)
		}
		return sys.WriteAll(fd, piece)
	})
	if err != nil {
		return err
	}
	var st syscall.Stat_t
	if err := sys.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&0o7777 != mode { // the umask, or set-id bits
		if err := syscall.Fchmod(fd, mode); err != nil {
			return err
		}
	}
	if err := sys.Utimensat(fd, "", sys.Omit, sys.Timespec(m.mtime), 0); err != nil {
		return err
	}
	one := staged{ino: st.Ino, size: m.size, mtime: m.mtime, mode: mode}
	if digest != nil {
		one.sum = digest.Sum(nil)
	}
	s.contents[number] = one
	return t.skip(padding(m.size))
}

// header is what the batch's log begins with.
type header struct {
	batch       int64
	incarnation incarnation
	resume      *int64
	bypass      bool
}

// encode writes down all that is needed to complete the batch: header, manifest, and what was staged.
func (s *staging) encode(h header) []byte {
	b := h.append(msgpack.AppendArray(make([]byte, 0, len(s.raw)+64*len(s.contents)+128), 3))
	b = msgpack.AppendBin(b, s.raw)
	b = msgpack.AppendArray(b, len(s.contents))
	for number, c := range s.contents {
		b = msgpack.AppendInt(msgpack.AppendArray(b, 6), int64(number))
		b = msgpack.AppendInt(msgpack.AppendUint(b, c.ino), c.size)
		b = msgpack.AppendUint(msgpack.AppendInt(b, c.mtime), uint64(c.mode))
		if c.sum == nil {
			b = msgpack.AppendNil(b)
		} else {
			b = msgpack.AppendBin(b, c.sum)
		}
	}
	return b
}

func (h header) append(b []byte) []byte {
	b = msgpack.AppendInt(msgpack.AppendArray(b, 4), h.batch)
	b = msgpack.AppendBin(b, h.incarnation[:])
	if h.resume == nil {
		b = msgpack.AppendNil(b)
	} else {
		b = msgpack.AppendInt(b, *h.resume)
	}
	return msgpack.AppendBool(b, h.bypass)
}

func parseHeader(v msgpack.Value) header {
	h := header{batch: v.At(0).Int, bypass: v.At(3).Int != 0}
	copy(h.incarnation[:], v.At(1).Bytes)
	if !v.At(2).IsNil() {
		n := v.At(2).Int
		h.resume = &n
	}
	return h
}

// decodeAccepted is the inverse of encode.
func decodeAccepted(b []byte) (header, *staging, error) {
	v, err := msgpack.Decode(b)
	if err != nil {
		return header{}, nil, err
	}
	h := parseHeader(v.At(0))
	s := &staging{raw: v.At(1).Bytes, contents: map[int]staged{}}
	if s.manifest, err = parseManifest(s.raw, h.incarnation); err != nil {
		return h, nil, err
	}
	for _, c := range v.At(2).Items {
		one := staged{ino: uint64(c.At(1).Int), size: c.At(2).Int, mtime: c.At(3).Int, mode: uint32(c.At(4).Int), sum: c.At(5).Bytes}
		s.contents[int(c.At(0).Int)] = one
	}
	return h, s, nil
}
