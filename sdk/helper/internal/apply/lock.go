package apply

import (
	"os"
	"strconv"
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
)

// lock makes an empty file, under a lease. The file is made under a private name, so that the lease knows it before it
// can be seen.
func (r *run) lock(o *operation) (*root.Attr, error) {
	p, err := r.where(o.path, o.pre)
	if err != nil {
		return nil, err
	}
	found, err := p.look()
	if err != nil {
		return nil, err
	}
	if ino, began := r.intents[o.seq]; r.doubt && began && found != nil && found.Ino == ino {
		r.track.Left(p.path, found)
		return found, nil
	}
	if found != nil && r.hints != nil && r.leases.has(r.journal, p.path) {
		r.track.Left(p.path, found)
		return found, nil // made before the machine was restarted
	}
	if found != nil {
		return nil, conflict(syscall.EEXIST, p.current())
	}
	mode := uint32(*o.mode) & 0o7777
	from := private{r.dir, o.own("lock")}
	sys.Unlinkat(from.dir, from.name, 0) // left by a crash
	fd, err := sys.Openat(from.dir, from.name, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return nil, err
	}
	err = syscall.Fchmod(fd, mode)
	syscall.Close(fd)
	if err != nil {
		return nil, err
	}
	if p.setgid {
		r.giveGroup(from, p.gid, mode)
	}
	attr, err := r.leased(o, from, p)
	if err != nil {
		sys.Unlinkat(from.dir, from.name, 0)
		return nil, err
	}
	return attr, nil
}

func (r *run) leased(o *operation, from private, p place) (*root.Attr, error) {
	made, err := inDir(from.dir, from.name).look()
	if err != nil || made == nil {
		return nil, syscall.ESTALE
	}
	if err := r.log.intent(o.seq, made.Ino); err != nil {
		return nil, err
	}
	one := lease{path: p.path, journal: r.journal, generation: r.generation, ino: made.Ino, born: sys.Birth(from.dir, from.name)}
	if err := r.leases.add(one); err != nil {
		return nil, err
	}
	pass("leased")
	err = r.renameNoreplace(from.dir, from.name, p.fd, p.name)
	if err == syscall.EXDEV { // a mount inside the workspace: the file is made in its place
		return r.lockInPlace(o, p, uint32(*o.mode)&0o7777)
	}
	pass("changed")
	if err == syscall.EEXIST {
		return nil, conflict(syscall.EEXIST, p.current())
	}
	if err != nil {
		return nil, err
	}
	attr, err := p.look()
	if err != nil || attr == nil {
		return nil, syscall.ESTALE
	}
	r.track.Left(p.path, attr)
	return attr, nil
}

func (r *run) lockInPlace(o *operation, p place, mode uint32) (*root.Attr, error) {
	fd, err := sys.Openat(p.fd, p.name, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW, mode)
	if err == syscall.EEXIST {
		return nil, conflict(syscall.EEXIST, p.current())
	}
	if err != nil {
		return nil, err
	}
	syscall.Close(fd)
	pass("changed")
	attr, err := r.made(p, mode)
	if err != nil {
		return nil, err
	}
	if err := r.log.intent(o.seq, attr.Ino); err != nil {
		return nil, err
	}
	born := sys.Birth(p.fd, p.name)
	return attr, r.leases.add(lease{path: p.path, journal: r.journal, generation: r.generation, ino: attr.Ino, born: born})
}

// locks tells whether a batch has made locks: their answer comes after every event that is older than they are.
func (m *manifest) locks() bool {
	for i := range m.operations {
		if m.operations[i].kind == "lock" {
			return true
		}
	}
	return false
}

// Locks is `locks`: the client tells which of its locks it still holds.
func (a *Applier) Locks(r *session.Request) ([]byte, error) {
	id, paths := r.Args.At(1), r.Args.At(2)
	if id.Kind != msgpack.Bin || len(id.Bytes) != 16 || paths.Kind != msgpack.Array {
		return nil, session.Invalid("locks takes a journal of 16 bytes and an array of paths")
	}
	if a.stateErr != nil {
		return nil, a.stateErr
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	lock, err := a.state.lock()
	if err != nil {
		return nil, err
	}
	defer syscall.Close(lock)
	r.Event = a.event()
	b := msgpack.AppendArray(nil, len(paths.Items))
	for _, p := range paths.Items {
		b = msgpack.AppendBool(b, p.Kind == msgpack.Bin && a.leases.claim(journalID(id.Bytes), string(p.Bytes)))
	}
	return b, nil
}

// keepLeases removes the locks of clients that did not come back.
func (a *Applier) keepLeases() {
	for {
		time.Sleep(leaseTick)
		if !a.leases.running() {
			continue
		}
		a.mu.Lock()
		if lock, err := a.state.lock(); err == nil {
			a.leases.expire(time.Now())
			syscall.Close(lock)
		}
		a.mu.Unlock()
	}
}

const leaseTick = 500 * time.Millisecond

// Keep is called when the client is gone and nothing is applied any more. If locks are left, a process of its own
// outlives this one, which may be killed with everything that belongs to the connection.
func (a *Applier) Keep(program string) {
	if a.stateErr != nil {
		return
	}
	lock, err := a.state.lock()
	if err != nil {
		return
	}
	defer syscall.Close(lock)
	a.leases.leave()
	if a.leases.expire(time.Now()) {
		a.leases.close()
		return
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	args := []string{"devbox-helper", "keep-locks", "--root", a.space.Path, "--state", a.state.Path, "--leases", a.leases.name}
	env := []string{}
	if ms := os.Getenv(leaseVariable); ms != "" {
		env = append(env, leaseVariable+"="+ms)
	}
	attr := &os.ProcAttr{
		Dir: "/", Env: env, Files: []*os.File{null, null, null, os.NewFile(uintptr(a.leases.fd), "leases")},
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	if p, err := os.StartProcess(program, args, attr); err == nil {
		p.Release()
	}
}

// KeepLocks is what the keeper does: it has the leases in descriptor 3, and ends when none is left.
func KeepLocks(space *root.Root, state *State, name string) {
	l := newLeases(space, state)
	l.name, l.fd = name, 3
	l.all = readLeases(l.fd)
	l.leave()
	for end := time.Now().Add(2 * l.time); time.Now().Before(end); time.Sleep(leaseTick) {
		lock, err := state.lock()
		if err != nil {
			return
		}
		done := l.expire(time.Now())
		if done {
			l.close()
		}
		syscall.Close(lock)
		if done {
			return
		}
	}
}

const leaseVariable = "DEVBOX_HELPER_LEASE_MS" // for tests

func leaseTime() time.Duration {
	if ms, err := strconv.Atoi(os.Getenv(leaseVariable)); err == nil {
		return time.Duration(ms) * time.Millisecond
	}
	return outlives
}
