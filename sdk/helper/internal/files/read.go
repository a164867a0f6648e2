package files

import (
	"crypto/sha256"
	"hash"
	"math"
	"sync"
	"syscall"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
	"sealos.io/devbox-helper/internal/wire"
)

// pieceSize is what is read and sent at once.
const pieceSize = wire.MaxPayload

// maxEach is the largest file in a read_many answer: with its attr it must fit a frame.
const maxEach = 98304

// sendRange sends a part of an open file as raw DATA. length -1: to the end.
func sendRange(r *session.Request, fd int, offset, length int64) error {
	if offset < 0 || length < -1 {
		return syscall.EINVAL
	}
	if length < 0 {
		length = math.MaxInt64
	}
	for length > 0 && offset >= 0 {
		var piece []byte
		if size := min(length, remaining(fd, offset)+1); size < pieceSize/2 {
			piece = make([]byte, size)
		} else {
			piece = wire.Buffer()[:min(size, pieceSize)]
		}
		n, err := sys.PreadFull(fd, piece, offset)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		if err := r.Raw(0, piece[:n]); err != nil {
			return err
		}
		offset, length = offset+int64(n), length-int64(n)
	}
	return nil
}

// remaining guesses how much there is to read.
func remaining(fd int, offset int64) int64 {
	var st syscall.Stat_t
	if sys.Fstat(fd, &st) != nil || st.Size <= offset {
		return 4096 // such as files of /proc, whose size is 0
	}
	return st.Size - offset
}

// Read is `read`.
func (e *Env) Read(r *session.Request) ([]byte, error) {
	a := Take(r)
	path, version, offset, length, follow := a.Path(), a.Version(), a.Int(0), a.Int(-1), a.Bool()
	if err := e.begin(r, a, 0); err != nil {
		return nil, err
	}
	fd, err := e.Root.OpenRegular(path, follow)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	if _, err := attrOf(fd, version); err != nil {
		return nil, err
	}
	if err := sendRange(r, fd, offset, length); err != nil {
		return nil, err
	}
	attr, err := attrOf(fd, version)
	if err != nil {
		return nil, err
	}
	return attr.Append(nil), nil
}

// attrOf reads the attributes of an open file; ESTALE if it is not of the version.
func attrOf(fd int, version *root.Version) (*root.Attr, error) {
	attr, err := root.AttrFD(fd)
	if err != nil {
		return nil, err
	}
	if version != nil && !version.Match(attr.Version()) {
		return nil, syscall.ESTALE
	}
	return attr, nil
}

// ReadMany is `read_many`.
func (e *Env) ReadMany(r *session.Request) ([]byte, error) {
	a := Take(r)
	items, limit, follow := a.Array(), a.Int(maxEach), a.Bool()
	if a.Err == nil && (limit < 0 || limit > maxEach) {
		a.Err = session.Invalid("max_each is at most 98304")
	}
	if err := e.begin(r, a, 0); err != nil {
		return nil, err
	}
	records := NewRecords(r, nil)
	for i, item := range items {
		if r.Cancelled() {
			return nil, syscall.ECANCELED
		}
		attr, content, err := e.readOne(item, limit, follow)
		if len(content)+records.Len() > wire.MaxPayload-8192 {
			if err := records.Flush(); err != nil {
				return nil, err
			}
		}
		b := msgpack.AppendInt(msgpack.AppendArray(records.Value(), 4), int64(i))
		b = root.AppendAttr(msgpack.AppendInt(b, int64(session.Errno(err))), attr)
		if err != nil {
			content = nil // the element stays a bin, empty
		}
		b = msgpack.AppendBin(b, content)
		if err := records.Done(b); err != nil {
			return nil, err
		}
	}
	return nil, records.Flush()
}

func (e *Env) readOne(item msgpack.Value, limit int64, follow bool) (*root.Attr, []byte, error) {
	path, err := Path(item.At(0))
	if err != nil {
		return nil, nil, err
	}
	var version *root.Version
	if v := item.At(1); !v.IsNil() {
		parsed, ok := root.ParseVersion(v)
		if !ok {
			return nil, nil, syscall.EINVAL
		}
		version = &parsed
	}
	fd, err := e.Root.OpenRegular(path, follow)
	if err == syscall.EISDIR || err == syscall.ELOOP && !follow {
		err = syscall.EINVAL // no regular file
	}
	if err != nil {
		return nil, nil, err
	}
	defer syscall.Close(fd)
	attr, err := attrOf(fd, version)
	if err != nil {
		return attr, nil, err
	}
	if attr.Size > limit {
		return attr, nil, syscall.EFBIG
	}
	content := make([]byte, attr.Size+1)
	n, err := sys.PreadFull(fd, content, 0)
	if err != nil {
		return attr, nil, err
	}
	if int64(n) > limit {
		return attr, nil, syscall.EFBIG
	}
	var after syscall.Stat_t
	if err := sys.Fstat(fd, &after); err != nil {
		return nil, nil, err
	}
	if after.Ctim.Nano() != attr.Ctime || after.Size != attr.Size || int64(n) != attr.Size {
		if attr, err = attrOf(fd, version); err != nil { // it is being written: what was read is of no version
			return attr, nil, err
		}
		if int64(n) != attr.Size && attr.Size > 0 {
			return attr, nil, syscall.ESTALE
		}
	}
	return attr, content[:n], nil
}

// Handles are the files that clients hold open.
type Handles struct {
	mu   sync.Mutex
	open map[int64]*handle
	last int64
}

type handle struct {
	fd     int
	users  int
	closed bool
}

const maxHandles = 1024

func (h *Handles) add(fd int) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.open) >= maxHandles {
		return 0, syscall.EMFILE
	}
	if h.open == nil {
		h.open = map[int64]*handle{}
	}
	h.last++
	h.open[h.last] = &handle{fd: fd}
	return h.last, nil
}

func (h *Handles) use(number int64) (*handle, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.open[number]
	if one == nil {
		return nil, syscall.EBADF
	}
	one.users++
	return one, nil
}

func (h *Handles) release(one *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one.users--
	if one.closed && one.users == 0 {
		syscall.Close(one.fd)
	}
}

func (h *Handles) close(number int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.open[number]
	if one == nil {
		return syscall.EBADF
	}
	delete(h.open, number)
	one.closed = true
	if one.users == 0 {
		syscall.Close(one.fd)
	}
	return nil
}

// Open is `open`.
func (e *Env) Open(handles *Handles) session.Handler {
	return func(r *session.Request) ([]byte, error) {
		a := Take(r)
		path, version, follow := a.Path(), a.Version(), a.Bool()
		if err := e.begin(r, a, 0); err != nil {
			return nil, err
		}
		fd, err := e.Root.OpenRegular(path, follow)
		if err != nil {
			return nil, err
		}
		attr, err := attrOf(fd, version)
		var number int64
		if err == nil {
			number, err = handles.add(fd)
		}
		if err != nil {
			syscall.Close(fd)
			return nil, err
		}
		return attr.Append(msgpack.AppendInt(msgpack.AppendArray(nil, 2), number)), nil
	}
}

// Pread is `pread`.
func (e *Env) Pread(handles *Handles) session.Handler {
	return func(r *session.Request) ([]byte, error) {
		a := Take(r)
		number, offset, length := a.Int(0), a.Int(0), a.Int(-1)
		if err := e.begin(r, a, 0); err != nil {
			return nil, err
		}
		one, err := handles.use(number)
		if err != nil {
			return nil, err
		}
		defer handles.release(one)
		if err := sendRange(r, one.fd, offset, length); err != nil {
			return nil, err
		}
		attr, err := root.AttrFD(one.fd)
		if err != nil {
			return nil, err
		}
		return attr.Append(nil), nil
	}
}

// Close is `close`.
func (e *Env) Close(handles *Handles) session.Handler {
	return func(r *session.Request) ([]byte, error) {
		a := Take(r)
		number := a.Int(0)
		if err := e.begin(r, a, 0); err != nil {
			return nil, err
		}
		return nil, handles.close(number)
	}
}

// Hash is `hash`.
func (e *Env) Hash(r *session.Request) ([]byte, error) {
	a := Take(r)
	path, offset, length, block := a.Path(), a.Int(0), a.Int(-1), a.Int(0)
	if a.Err == nil && (offset < 0 || length < -1 || block < 0) {
		a.Err = session.Invalid("offset, length and block are not negative")
	}
	if err := e.begin(r, a, 0); err != nil {
		return nil, err
	}
	fd, err := e.Root.OpenRegular(path, false)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	records := NewRecords(r, nil)
	if err := hashBlocks(r, fd, offset, length, block, records); err != nil {
		return nil, err
	}
	attr, err := root.AttrFD(fd)
	if err != nil {
		return nil, err
	}
	return attr.Append(nil), nil
}

// hashBlocks sends a digest for each block; the last may be short. A range without bytes has one digest if block is 0, else none.
func hashBlocks(r *session.Request, fd int, offset, length, block int64, records *Records) error {
	if length < 0 {
		length = math.MaxInt64
	}
	var h hash.Hash = sha256.New()
	inBlock := int64(0)
	emit := func() error {
		b := msgpack.AppendBin(records.Value(), h.Sum(nil))
		h.Reset()
		inBlock = 0
		return records.Done(b)
	}
	buf := make([]byte, 65536)
	for length > 0 {
		if r.Cancelled() {
			return syscall.ECANCELED
		}
		want := min(length, int64(len(buf)))
		if block > 0 {
			want = min(want, block-inBlock)
		}
		n, err := sys.PreadFull(fd, buf[:want], offset)
		if err != nil {
			return err
		}
		h.Write(buf[:n])
		inBlock, offset, length = inBlock+int64(n), offset+int64(n), length-int64(n)
		if block > 0 && inBlock == block {
			if err := emit(); err != nil {
				return err
			}
		}
		if int64(n) < want {
			break
		}
	}
	if block == 0 || inBlock > 0 {
		if err := emit(); err != nil {
			return err
		}
	}
	return records.Flush()
}
