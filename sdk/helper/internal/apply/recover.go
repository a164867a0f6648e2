package apply

import (
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
)

// recover reads a journal's logs and completes the batch that was accepted but not finished. The caller holds the locks.
//
// After a restart of the machine (rebooted) nothing that is not known to be on stable storage is believed: the logs
// beyond it become hints, and the client sends those batches again.
func (a *Applier) recover(j *journal, rebooted bool) error {
	names, err := listNames(j.fd)
	if err != nil {
		return err
	}
	var batches []int64
	for _, name := range names {
		if n, err := strconv.ParseInt(name, 10, 64); err == nil {
			batches = append(batches, n)
		}
	}
	sort.Slice(batches, func(i, k int) bool { return batches[i] < batches[k] })
	if rebooted {
		j.last = j.durable
	}
	for _, batch := range batches {
		if err := a.recoverBatch(j, batch, rebooted && batch > j.durable); err != nil {
			return err
		}
	}
	j.broken = false
	return nil
}

func (a *Applier) recoverBatch(j *journal, batch int64, doubted bool) error {
	dir, err := sys.Openat(j.fd, batchName(batch), syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(dir)
	log, err := readLog(dir, "log")
	if err != nil && err != syscall.ENOENT {
		return err
	}
	if doubted {
		return a.doubt(j, batch, dir, log)
	}
	raw, err := readFile(dir, "manifest")
	switch {
	case err == syscall.ENOENT && log != nil:
		for _, o := range log.outcomes {
			j.record(batch, log.header.incarnation, o)
		}
		j.noteTrouble(log.header, log.outcomes)
		if _, known := j.logged[batch]; !known {
			j.logged[batch] = nil
		}
	case err != nil:
		return err
	default:
		h, s, err := decodeAccepted(raw)
		if err != nil {
			return err
		}
		if err := a.resume(j, dir, h, s, log); err != nil {
			return err
		}
	}
	j.last = max(j.last, batch)
	return nil
}

// resume completes an accepted batch.
func (a *Applier) resume(j *journal, dir int, h header, s *staging, log *replay) error {
	s.fd = dir
	if log == nil || !log.whole {
		return syscall.EIO // the log was there before the batch was accepted
	}
	fd, err := sys.Openat(dir, "log", syscall.O_WRONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	if err := syscall.Ftruncate(fd, log.length); err != nil {
		syscall.Close(fd)
		return err
	}
	l := &batchLog{fd: fd, offset: log.length}
	defer l.close()
	_, err = a.execute(j, h, s, l, log)
	return err
}

// noteTrouble follows the journal's trouble through a batch's outcomes.
func (j *journal) noteTrouble(h header, outcomes []outcome) {
	j.resumed(h)
	for _, o := range outcomes {
		j.noteOutcome(h, o)
	}
}

func (j *journal) noteOutcome(h header, o outcome) {
	if trouble(o.errno) && j.trouble == nil {
		j.trouble = &identity{h.incarnation, o.seq}
	}
}

// resumed ends the trouble if the batch says so, or belongs to another incarnation.
func (j *journal) resumed(h header) {
	if t := j.trouble; t != nil && (t.incarnation != h.incarnation || h.resume != nil && *h.resume == t.seq) {
		j.trouble = nil
	}
}

// doubt turns what is left of a batch into hints. Displaced objects that were not ours to displace go back.
func (a *Applier) doubt(j *journal, batch int64, dir int, log *replay) error {
	if log != nil {
		said := &hints{outcomes: map[int64]outcome{}, intents: log.intents}
		for _, o := range log.outcomes {
			said.outcomes[o.seq] = o
		}
		j.hints[batch] = said
	}
	if raw, err := readFile(dir, "manifest"); err == nil {
		if h, s, err := decodeAccepted(raw); err == nil {
			s.fd = dir
			a.putBack(j, h, s)
		}
	}
	return removeTree(j.fd, batchName(batch))
}

// putBack restores displaced objects that are not of the version that was to be displaced.
func (a *Applier) putBack(j *journal, h header, s *staging) {
	r := a.newRun(j, h, s, &batchLog{fd: -1})
	defer r.dirs.close()
	r.doubt = true
	for i := range s.manifest.operations {
		o := &s.manifest.operations[i]
		gone := private{s.fd, o.own("gone")}
		displaced, _ := inDir(gone.dir, gone.name).look()
		if displaced == nil || o.pre.kind == preNone {
			continue
		}
		if p, err := r.where(o.path, o.pre); err == nil && r.check(o.pre, inDir(gone.dir, gone.name), displaced) != nil {
			r.restore(gone, p)
		}
	}
}

// RecoverAll completes the batches that helpers before this one have accepted, of whatever journal, and removes what
// plain calls have left.
func (a *Applier) RecoverAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	lock, err := a.state.lock()
	if err != nil {
		return
	}
	defer syscall.Close(lock)
	names, err := listNames(a.state.fd)
	if err != nil {
		return
	}
	a.leases.takeOver("", 0)
	for _, name := range names {
		switch {
		case len(name) == 32 && a.journals[name] == nil:
			a.recoverUnattended(name)
		case strings.HasPrefix(name, stagingPrefix):
			a.clean(name)
		}
	}
}

func (a *Applier) recoverUnattended(id string) {
	j, m, err := openJournal(a.state.fd, id)
	if err != nil {
		return
	}
	defer syscall.Close(j.fd)
	if m.boot == a.boot && hasManifest(j.fd) {
		if a.recover(j, false) == nil {
			j.save(a.boot)
		}
	}
}

func hasManifest(dir int) bool {
	names, _ := listNames(dir)
	for _, name := range names {
		var st syscall.Stat_t
		if _, err := strconv.Atoi(name); err == nil && sys.Fstatat(dir, name+"/manifest", &st, sys.AtSymlinkNofollow) == nil {
			return true
		}
	}
	return false
}

// clean removes the directory of a plain call whose helper is gone, unless it holds something that was displaced and
// perhaps not verified: that is kept, for a person to look at.
func (a *Applier) clean(name string) {
	fd, err := sys.Openat(a.state.fd, name, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if sys.Fstat(fd, &st) != nil || time.Now().Unix()-st.Mtim.Nano()/1e9 < 60 || syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return
	}
	names, _ := listNames(fd)
	for _, one := range names {
		if strings.HasPrefix(one, "old-") || strings.HasPrefix(one, "gone-") {
			sys.Renameat2(a.state.fd, name, a.state.fd, "kept-"+name, sys.RenameNoreplace)
			return
		}
	}
	removeTree(a.state.fd, name)
}

// Attach is `attach`.
func (a *Applier) Attach(r *session.Request) ([]byte, error) {
	id, generation := r.Args.At(1), r.Args.At(2)
	if id.Kind != msgpack.Bin || len(id.Bytes) != 16 || generation.Kind != msgpack.Int {
		return nil, session.Invalid("attach takes a journal of 16 bytes and a generation")
	}
	r.Event = a.event()
	j, err := a.attach(journalID(id.Bytes), generation.Int)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	b := msgpack.AppendInt(msgpack.AppendArray(nil, 3), j.last)
	return msgpack.AppendStr(msgpack.AppendInt(b, j.durable), a.boot), nil
}

func (a *Applier) attach(id string, generation int64) (*journal, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stateErr != nil {
		return nil, a.stateErr
	}
	lock, err := a.state.lock()
	if err != nil {
		return nil, err
	}
	defer syscall.Close(lock)
	j, m, err := openJournal(a.state.fd, id)
	if err != nil {
		return nil, err
	}
	if m.generation > generation {
		syscall.Close(j.fd)
		return nil, session.Fail(syscall.ESTALE, "a newer generation has this journal")
	}
	j.generation = generation
	names, _ := listNames(j.fd)
	for _, name := range names {
		if strings.HasPrefix(name, stagingPrefix) {
			removeTree(j.fd, name)
		}
	}
	err = a.recover(j, m.boot != "" && m.boot != a.boot)
	if err == nil {
		err = j.save(a.boot)
	}
	if err != nil {
		syscall.Close(j.fd)
		return nil, err
	}
	a.leases.takeOver(id, generation)
	j.setReserve()
	a.jmu.Lock()
	defer a.jmu.Unlock()
	a.journals[id] = j // one that was attached before keeps its descriptor: a request may be using it
	a.attached = j
	return j, nil
}
