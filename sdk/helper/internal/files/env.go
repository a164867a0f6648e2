// Package files has the operations that read (sdk/PROTOCOL.md section 5), but for snapshot.
package files

import (
	"syscall"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/prune"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
)

// Env is what the operations have in common.
type Env struct {
	Root *root.Root
	// Event is the number of the last event that was sent or decided.
	Event func() uint64
	// WatchDir is told of each directory before it is read.
	WatchDir func(path string, fd int)
	// After waits until a batch was applied.
	After func(r *session.Request, batch int64) error
}

// Path takes a path argument.
func Path(v msgpack.Value) (string, error) {
	if v.Kind != msgpack.Bin {
		return "", session.Invalid("a path is a bin")
	}
	return string(v.Bytes), nil
}

// Int takes an integer argument; nil is the default.
func Int(v msgpack.Value, absent int64) (int64, error) {
	switch {
	case v.IsNil():
		return absent, nil
	case v.Kind != msgpack.Int || v.Big:
		return 0, session.Invalid("an integer was expected")
	}
	return v.Int, nil
}

// Bool takes a boolean argument; nil is false.
func Bool(v msgpack.Value) (bool, error) {
	if v.Kind != msgpack.Bool && !v.IsNil() {
		return false, session.Invalid("a boolean was expected")
	}
	return v.Int != 0, nil
}

// Args takes a request's arguments one after the other and remembers the first that is wrong.
type Args struct {
	r   *session.Request
	i   int
	Err error
}

// Take starts with the first argument.
func Take(r *session.Request) *Args { return &Args{r: r} }

func (a *Args) next() msgpack.Value {
	a.i++
	return a.r.Args.At(a.i)
}

func (a *Args) note(err error) {
	if a.Err == nil {
		a.Err = err
	}
}

// Path takes a path.
func (a *Args) Path() string {
	p, err := Path(a.next())
	a.note(err)
	return p
}

// Int takes an integer.
func (a *Args) Int(absent int64) int64 {
	n, err := Int(a.next(), absent)
	a.note(err)
	return n
}

// Bool takes a boolean.
func (a *Args) Bool() bool {
	b, err := Bool(a.next())
	a.note(err)
	return b
}

// Version takes a version or nil.
func (a *Args) Version() *root.Version {
	v := a.next()
	if v.IsNil() {
		return nil
	}
	version, ok := root.ParseVersion(v)
	if !ok {
		a.note(session.Invalid("a version is [ino, ctime_ns, mtime_ns, size, sha256]"))
	}
	return &version
}

// Str takes a str or a bin without NUL.
func (a *Args) Str() string {
	v := a.next()
	if v.Kind != msgpack.Str && v.Kind != msgpack.Bin {
		a.note(session.Invalid("a name was expected"))
	}
	for _, c := range v.Bytes {
		if c == 0 {
			a.note(session.Invalid("a name has no NUL"))
		}
	}
	return string(v.Bytes)
}

// Prune takes what is left out: `[base, names, directories]`, or nil.
func (a *Args) Prune() *prune.Set {
	v := a.next()
	if v.IsNil() {
		return nil
	}
	base, err := Path(v.At(0))
	if err == nil {
		err = root.Check(base)
	}
	names, directories := a.patterns(v.At(1)), a.patterns(v.At(2))
	a.note(err)
	set, err := prune.New(base, names, directories)
	if err != nil {
		a.note(session.Invalid(err.Error()))
	}
	return set
}

func (a *Args) patterns(v msgpack.Value) []string {
	var texts []string
	if v.Kind != msgpack.Array && !v.IsNil() {
		a.note(session.Invalid("an array of patterns was expected"))
	}
	for _, one := range v.Items {
		if one.Kind != msgpack.Bin {
			a.note(session.Invalid("a pattern is a bin"))
		}
		texts = append(texts, string(one.Bytes))
	}
	return texts
}

// Array takes an array.
func (a *Args) Array() []msgpack.Value {
	v := a.next()
	if v.Kind != msgpack.Array {
		a.note(session.Invalid("an array was expected"))
	}
	return v.Items
}

// begin is called once all arguments were taken.
func (e *Env) begin(r *session.Request, a *Args, after int64) error {
	if a.Err != nil {
		return a.Err
	}
	if after != 0 {
		if err := e.After(r, after); err != nil {
			return err
		}
	}
	if r.Cancelled() {
		return syscall.ECANCELED
	}
	r.Event = e.Event()
	return nil
}
