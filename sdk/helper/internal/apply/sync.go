package apply

import (
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
)

// sync brings to stable storage what a manifest asks for.
func (a *Applier) sync(j *journal, m *manifest) error {
	if m.syncAll {
		return a.makeDurable(j, true)
	}
	seen := map[string]bool{}
	for _, path := range m.syncPaths {
		dir, _ := root.Split(path)
		for _, p := range []string{path, dir} {
			if seen[p] {
				continue
			}
			seen[p] = true
			if err := a.fsync(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// fsync syncs a file or directory. What is gone by now, and what has no contents, has nothing to be synced.
func (a *Applier) fsync(path string) error {
	attr, err := a.space.Stat(path, false)
	if err == syscall.ENOENT || err == syscall.ENOTDIR || err == nil && !attr.IsRegular() && !attr.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := a.space.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK, false)
	if err == syscall.EACCES {
		fd, err = a.space.Open(path, syscall.O_WRONLY|syscall.O_NONBLOCK, false)
	}
	switch err {
	case nil:
	case syscall.ENOENT:
		return nil
	case syscall.EACCES:
		return sys.Syncfs(a.space.FD) // neither readable nor writable, but its content may be ours
	default:
		return err
	}
	defer syscall.Close(fd)
	return syscall.Fsync(fd)
}

// makeDurable syncs the file system; what a journal had applied before is durable then. always: even if nothing is pending.
func (a *Applier) makeDurable(j *journal, always bool) error {
	var applied int64
	if j != nil {
		j.mu.Lock()
		applied = j.last
		pending := applied > j.durable
		j.mu.Unlock()
		if !pending && !always {
			return nil
		}
	}
	if err := sys.Syncfs(a.space.FD); err != nil {
		return err
	}
	if err := sys.Syncfs(a.state.fd); err != nil {
		return err
	}
	if j == nil {
		return nil
	}
	return a.persist(j, applied)
}

// persist notes that a batch is durable, and forgets what nobody needs any more. It takes the workspace's lock, so as
// not to overwrite what a newer generation has written.
func (a *Applier) persist(j *journal, durable int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	lock, err := a.state.lock()
	if err != nil {
		return err
	}
	defer syscall.Close(lock)
	m, err := readMeta(j.fd)
	if err != nil || m.generation != j.generation {
		return nil // superseded, or detached meanwhile
	}
	j.mu.Lock()
	if durable > j.durable {
		j.durable = durable
		j.changedLocked()
	}
	err = j.save(a.boot)
	j.mu.Unlock()
	if err == nil {
		j.forget(a.boot)
	}
	return err
}

// Sync is `sync`.
func (a *Applier) Sync(r *session.Request) ([]byte, error) {
	r.Event = a.event()
	if a.stateErr != nil {
		return nil, sys.Syncfs(a.space.FD)
	}
	a.jmu.Lock()
	j := a.attached
	a.jmu.Unlock()
	if err := a.makeDurable(j, true); err != nil {
		return nil, err
	}
	return msgpack.AppendInt(nil, a.Durable()), nil
}

// durableEvery: how often what was applied is brought to stable storage.
const durableEvery = 5 * time.Second

func (a *Applier) keepDurable() {
	for {
		time.Sleep(durableEvery)
		a.jmu.Lock()
		var all []*journal
		for _, j := range a.journals {
			all = append(all, j)
		}
		a.jmu.Unlock()
		for _, j := range all {
			a.makeDurable(j, false)
		}
	}
}
