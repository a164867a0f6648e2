package apply

import (
	"strings"
	"syscall"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
)

// The limits of a manifest (section 10).
const (
	maxManifest   = 16 << 20
	maxOperations = 100_000
)

// incarnation names an opening of a journal; with a sequence number it names an operation.
type incarnation [16]byte

type identity struct {
	incarnation incarnation
	seq         int64
}

// Kinds of preconditions, as on the wire.
const (
	preAbsent = iota
	preVersion
	preLeft
	preNone
	preInode
)

// condition is a precondition.
type condition struct {
	kind    int
	version root.Version
	left    identity
	ino     uint64
}

type extent struct {
	offset  int64
	content int
}

// operation is one operation of a manifest.
type operation struct {
	seq        int64
	kind       string
	path       string
	pre        condition
	content    int // of put; -1
	extents    []extent
	size       *int64
	mtime      *int64
	atime      *int64
	mode       *int64
	uid, gid   *int64
	parents    bool
	target     string
	source     string
	sourcePre  condition
	flags      int64
	rdev       int64
	name       string
	value      []byte
	hasValue   bool
	sourceUsed bool
}

// manifest is the first member of the archive.
type manifest struct {
	operations []operation
	syncPaths  []string
	syncAll    bool
	locked     bool        // it may have made locks (see locks)
	contents   map[int]int // content number → index of its operation
}

// parser reads an operation's elements and remembers the first problem.
type parser struct {
	v       msgpack.Value
	i       int
	own     incarnation
	problem string
}

func (p *parser) next() msgpack.Value {
	p.i++
	return p.v.At(p.i - 1)
}

func (p *parser) fail(text string) {
	if p.problem == "" {
		p.problem = text
	}
}

func (p *parser) int() int64 {
	v := p.next()
	if v.Kind != msgpack.Int || v.Big {
		p.fail("an integer was expected")
	}
	return v.Int
}

func (p *parser) maybeInt() *int64 {
	if p.v.At(p.i).IsNil() {
		p.i++
		return nil
	}
	n := p.int()
	return &n
}

func (p *parser) bin() string {
	v := p.next()
	if v.Kind != msgpack.Bin {
		p.fail("a bin was expected")
	}
	return string(v.Bytes)
}

func (p *parser) bool() bool {
	v := p.next()
	if v.Kind != msgpack.Bool && !v.IsNil() {
		p.fail("a boolean was expected")
	}
	return v.Int != 0
}

func (p *parser) condition() condition {
	v := p.next()
	c := condition{kind: preNone}
	if v.Kind != msgpack.Array || v.At(0).Kind != msgpack.Int {
		p.fail("a precondition was expected")
		return c
	}
	c.kind = int(v.At(0).Int)
	switch c.kind {
	case preAbsent, preNone:
	case preVersion:
		var ok bool
		if c.version, ok = root.ParseVersion(msgpack.Value{Kind: msgpack.Array, Items: v.Items[1:]}); !ok {
			p.fail("a version was expected")
		}
	case preLeft:
		c.left = identity{p.own, v.At(1).Int}
		if inc := v.At(2); inc.Kind == msgpack.Bin && len(inc.Bytes) == len(c.left.incarnation) {
			copy(c.left.incarnation[:], inc.Bytes)
		} else if !inc.IsNil() || v.At(1).Kind != msgpack.Int {
			p.fail("[2, seq, incarnation] was expected")
		}
	case preInode:
		c.ino = uint64(v.At(1).Int)
		if v.At(1).Kind != msgpack.Int {
			p.fail("[4, ino] was expected")
		}
	default:
		p.fail("unknown kind of precondition")
	}
	return c
}

func parseOperation(v msgpack.Value, own incarnation) (operation, error) {
	p := parser{v: v, own: own}
	if v.Kind != msgpack.Array {
		p.fail("an operation is an array")
	}
	o := operation{content: -1}
	o.seq = p.int()
	kind := p.next()
	if kind.Kind != msgpack.Str {
		p.fail("the kind of an operation is a str")
	}
	o.kind = string(kind.Bytes)
	o.path = p.bin()
	o.pre = p.condition()
	switch o.kind {
	case "put":
		o.content = int(p.int())
		if o.content < 0 {
			p.fail("contents are numbered from 0")
		}
	case "write":
		p.extents(&o)
		o.size, o.mtime = p.maybeInt(), p.maybeInt()
		if o.size != nil && *o.size < 0 {
			p.fail("a size is not negative")
		}
	case "lock":
		mode := p.int()
		o.mode = &mode
	case "mkdir":
		mode := p.int()
		o.mode, o.parents = &mode, p.bool()
	case "symlink":
		o.target, o.mtime = p.bin(), p.maybeInt()
		if strings.IndexByte(o.target, 0) >= 0 {
			p.fail("a target has no NUL")
		}
	case "link":
		o.source, o.sourcePre = p.bin(), p.condition()
		o.sourceUsed = true
	case "mknod":
		mode := p.int()
		o.mode, o.rdev, o.mtime = &mode, p.int(), p.maybeInt()
	case "unlink", "rmdir", "rmtree":
	case "rename":
		o.source, o.sourcePre = p.bin(), p.condition()
		o.sourceUsed = true
		if f := p.maybeInt(); f != nil {
			o.flags = *f
		}
		if o.flags < 0 || o.flags > 2 {
			p.fail("flags of rename are 0, 1 or 2")
		}
	case "setattr":
		o.mode, o.uid, o.gid, o.atime, o.mtime = p.maybeInt(), p.maybeInt(), p.maybeInt(), p.maybeInt(), p.maybeInt()
	case "setxattr":
		p.xattr(&o)
	case "dirtime":
		mtime := p.int()
		o.mtime = &mtime
	case "copy":
		o.source, o.sourcePre, o.parents = p.bin(), p.condition(), p.bool()
		o.sourceUsed = true
	default:
		p.fail("unknown kind of operation")
	}
	if p.problem != "" {
		return o, session.Invalid("operation " + o.kind + ": " + p.problem)
	}
	return o, nil
}

func (p *parser) extents(o *operation) {
	v := p.next()
	if v.Kind != msgpack.Array {
		p.fail("[[offset, content], ...] was expected")
	}
	for _, e := range v.Items {
		offset, content := e.At(0), e.At(1)
		if offset.Kind != msgpack.Int || offset.Int < 0 || content.Kind != msgpack.Int || content.Int < 0 || offset.Big || content.Big {
			p.fail("[offset, content] was expected")
		}
		o.extents = append(o.extents, extent{offset.Int, int(content.Int)})
	}
}

func (p *parser) xattr(o *operation) {
	name := p.next()
	if name.Kind != msgpack.Str && name.Kind != msgpack.Bin || strings.IndexByte(string(name.Bytes), 0) >= 0 {
		p.fail("a name was expected")
	}
	o.name = string(name.Bytes)
	if v := p.next(); v.Kind == msgpack.Bin {
		o.value, o.hasValue = append([]byte{}, v.Bytes...), true
	} else if !v.IsNil() {
		p.fail("a bin was expected")
	}
	if f := p.maybeInt(); f != nil {
		o.flags = *f
	}
}

// checkPaths is done when the operation is carried out, so that a bad path is the error of that operation alone.
func (o *operation) checkPaths(space *root.Root) error {
	if err := space.Allowed(o.path); err != nil {
		if err == syscall.ENOENT { // the state directory
			switch o.kind {
			case "put", "lock", "mkdir", "symlink", "link", "mknod", "rename", "copy":
				return syscall.EACCES
			}
		}
		return err
	}
	if o.sourceUsed {
		return space.Allowed(o.source)
	}
	return nil
}

func parseManifest(b []byte, own incarnation) (*manifest, error) {
	r := msgpack.Reader{B: b}
	outer, err := r.Array()
	if err != nil || outer < 1 {
		return nil, session.Invalid("the manifest is [operations, sync]")
	}
	n, err := r.Array()
	if err != nil || n > maxOperations {
		return nil, session.Invalid("a manifest has at most 100,000 operations")
	}
	m := &manifest{operations: make([]operation, n), contents: map[int]int{}}
	for i := range m.operations {
		v, err := r.Value()
		if err != nil {
			return nil, session.Invalid(err.Error())
		}
		o, err := parseOperation(v, own)
		if err != nil {
			return nil, err
		}
		if i > 0 && o.seq <= m.operations[i-1].seq {
			return nil, session.Invalid("seq ascends within a batch")
		}
		m.operations[i] = o
		if err := m.use(o.content, i); err != nil {
			return nil, err
		}
		for _, e := range o.extents {
			if err := m.use(e.content, i); err != nil {
				return nil, err
			}
		}
	}
	return m, m.parseSync(&r, outer)
}

// use notes that an operation refers to a content. Each is used once: a put gives it away.
func (m *manifest) use(content, operation int) error {
	if content < 0 {
		return nil
	}
	if _, twice := m.contents[content]; twice {
		return session.Invalid("a content is used once")
	}
	m.contents[content] = operation
	return nil
}

func (m *manifest) parseSync(r *msgpack.Reader, outer int) error {
	for i := 1; i < outer; i++ {
		v, err := r.Value()
		if err != nil {
			return session.Invalid(err.Error())
		}
		if i > 1 {
			continue
		}
		switch v.Kind {
		case msgpack.Nil:
		case msgpack.Bool:
			m.syncAll = v.Int != 0
		case msgpack.Array:
			for _, p := range v.Items {
				if p.Kind != msgpack.Bin {
					return session.Invalid("sync is nil, true or an array of paths")
				}
				m.syncPaths = append(m.syncPaths, string(p.Bytes))
			}
		default:
			return session.Invalid("sync is nil, true or an array of paths")
		}
	}
	if r.Off != len(r.B) {
		return session.Invalid("bytes after the manifest")
	}
	return nil
}
