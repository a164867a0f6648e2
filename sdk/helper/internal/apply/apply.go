// Package apply has the operation that changes things (sdk/PROTOCOL.md section 6): contents are staged as they arrive,
// the batch is accepted whole, its operations are carried out in order, verified and logged, so that each is done
// exactly once whatever crashes.
package apply

import (
	"os"
	"strings"
	"sync"
	"syscall"

	"sealos.io/devbox-helper/internal/files"
	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
)

// ExitSuperseded is the exit status of a helper whose generation is over.
const ExitSuperseded = 4

// Applier changes the workspace for one connection.
type Applier struct {
	space    *root.Root
	state    *State
	stateErr error
	track    Tracker
	event    func() uint64
	drain    func(<-chan struct{}) uint64
	leases   *Leases
	exit     func(status int)
	boot     string

	mu sync.Mutex // held, with the workspace's lock, while a batch is applied

	jmu       sync.Mutex
	journals  map[string]*journal
	attached  *journal
	announced map[*session.Request]*journal // requests whose handlers have not begun
}

// New returns an Applier. stateErr: there is no state directory, so nothing can be changed.
func New(space *root.Root, state *State, stateErr error, track Tracker, event func() uint64, drain func(<-chan struct{}) uint64, exit func(int)) *Applier {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	a := &Applier{
		space: space, state: state, stateErr: stateErr, track: track, event: event, drain: drain, exit: exit,
		boot: strings.TrimSpace(string(boot)), journals: map[string]*journal{},
		announced: map[*session.Request]*journal{},
	}
	if stateErr == nil {
		a.leases = newLeases(space, state)
		go a.RecoverAll()
		go a.keepDurable()
		go a.keepLeases()
	}
	return a
}

// Finish waits until no batch is being applied, and lets none begin.
func (a *Applier) Finish() { a.mu.Lock() }

// After waits until a batch of the attached journal was applied.
func (a *Applier) After(r *session.Request, batch int64) error {
	a.jmu.Lock()
	j := a.attached
	a.jmu.Unlock()
	if j == nil {
		return session.Invalid("no journal is attached")
	}
	return j.waitApplied(r, batch)
}

// Durable is the attached journal's highest batch on stable storage.
func (a *Applier) Durable() int64 {
	a.jmu.Lock()
	j := a.attached
	a.jmu.Unlock()
	if j == nil {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.durable
}

// Apply is `apply`.
func (a *Applier) Apply(r *session.Request) ([]byte, error) {
	if a.stateErr != nil {
		return nil, a.stateErr
	}
	c, err := parseCall(r)
	if err != nil {
		return nil, err
	}
	if c.journal == "" {
		return a.plain(r)
	}
	j, err := a.journal(r, c)
	if err != nil {
		return nil, err
	}
	applied := false
	defer func() { j.end(c.batch, applied) }()
	t, err := j.begin(c.batch, c.acked)
	if err != nil {
		return nil, err
	}
	if t.replay {
		applied = true
		return a.replay(r, j, c)
	}
	s, results, err := a.staged(r, j, c, t)
	if err != nil {
		return nil, err
	}
	applied = true
	return a.answer(r, j, c.batch, s.manifest, results, false)
}

// Announce is called for each apply request in the order in which they come, before their handlers run at the same time.
func (a *Applier) Announce(r *session.Request) {
	c, err := parseCall(r)
	if err != nil || c.journal == "" {
		return
	}
	a.jmu.Lock()
	defer a.jmu.Unlock()
	if j := a.journals[c.journal]; j != nil {
		j.announce(c.batch)
		a.announced[r] = j
	}
}

// journal returns the journal of a call, attaching it if need be, with the batch announced.
func (a *Applier) journal(r *session.Request, c call) (*journal, error) {
	a.jmu.Lock()
	announced, j := a.announced[r], a.journals[c.journal]
	delete(a.announced, r)
	a.jmu.Unlock()
	var err error
	switch {
	case j != nil && c.generation < j.generation:
		err = session.Fail(syscall.ESTALE, "the generation is over")
	case j == nil || c.generation > j.generation:
		j, err = a.attach(c.journal, c.generation)
	}
	if announced != nil && (err != nil || announced != j) {
		announced.end(c.batch, false)
	}
	if err != nil {
		return nil, err
	}
	if announced != j {
		j.announce(c.batch)
	}
	return j, nil
}

// staged receives a batch and applies it in its turn.
func (a *Applier) staged(r *session.Request, j *journal, c call, t turn) (*staging, []outcome, error) {
	s, log, err := a.arrive(r, j, c)
	if err != nil {
		return nil, nil, err
	}
	accepted := false
	defer func() {
		log.close()
		if !accepted {
			s.discard()
		}
	}()
	pass("staged")
	if t.follow {
		if err := j.waitTurn(r, c.batch); err != nil {
			return nil, nil, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	lock, err := a.state.lock()
	if err != nil {
		return nil, nil, err
	}
	defer syscall.Close(lock)
	a.jmu.Lock()
	current := a.journals[j.id] == j
	a.jmu.Unlock()
	if !current {
		return nil, nil, session.Fail(syscall.ECANCELED, "the journal was attached again, or detached")
	}
	if err := a.stillOurs(j); err != nil {
		return nil, nil, err
	}
	if j.broken {
		if err := a.recover(j, false); err != nil {
			return nil, nil, err
		}
	}
	if r.Cancelled() {
		return nil, nil, syscall.ECANCELED
	}
	if err := sys.Renameat2(j.fd, s.name, j.fd, batchName(c.batch), 0); err != nil {
		return nil, nil, err
	}
	accepted = true
	defer syscall.Close(s.fd)
	pass("accepted")
	r.Event = a.event()
	results, err := a.execute(j, c.header, s, log, nil)
	if err != nil {
		j.broken = true
	}
	return s, results, err
}

// arrive receives a batch into the staging area, with all that is needed to complete it. On a full disk a batch that
// makes room finds the room that was set aside for it.
func (a *Applier) arrive(r *session.Request, j *journal, c call) (*staging, *batchLog, error) {
	s, err := newStaging(j.fd)
	if full(err) && c.bypass && j.useReserve() {
		s, err = newStaging(j.fd)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := s.receive(r.Receive, c.incarnation); err != nil {
		s.discard()
		return nil, nil, err
	}
	log, err := s.prepare(c.header)
	if full(err) && c.bypass && j.useReserve() {
		log, err = s.prepare(c.header)
	}
	if err != nil {
		s.discard()
		return nil, nil, err
	}
	return s, log, nil
}

// prepare writes log and manifest.
func (s *staging) prepare(h header) (*batchLog, error) {
	sys.Unlinkat(s.fd, "log", 0)
	log, err := createLog(s.fd, h, len(s.manifest.operations))
	if err != nil {
		return nil, err
	}
	if err := writeFile(s.fd, "manifest", s.encode(h)); err != nil {
		log.close()
		return nil, err
	}
	return log, nil
}

// stillOurs compares the journal's generation; a helper whose generation is over ends.
func (a *Applier) stillOurs(j *journal) error {
	m, err := readMeta(j.fd)
	if err != nil {
		return err
	}
	if m.generation == j.generation {
		return nil
	}
	go a.exit(ExitSuperseded)
	return session.Fail(syscall.ESTALE, "superseded by a newer generation")
}

// plain is an apply without a journal.
func (a *Applier) plain(r *session.Request) ([]byte, error) {
	s, err := newStaging(a.state.fd)
	if err != nil {
		return nil, err
	}
	defer s.discard()
	syscall.Flock(s.fd, syscall.LOCK_EX|syscall.LOCK_NB) // tells other helpers that this is in use
	if err := s.receive(r.Receive, incarnation{}); err != nil {
		return nil, err
	}
	results, err := func() ([]outcome, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		lock, err := a.state.lock()
		if err != nil {
			return nil, err
		}
		defer syscall.Close(lock)
		if r.Cancelled() {
			return nil, syscall.ECANCELED
		}
		r.Event = a.event()
		return a.execute(nil, header{}, s, &batchLog{fd: -1}, nil)
	}()
	if err != nil {
		return nil, err
	}
	return a.answer(r, nil, 0, s.manifest, results, false)
}

// replay answers a batch that was applied before from its log.
func (a *Applier) replay(r *session.Request, j *journal, c call) ([]byte, error) {
	r.Event = a.event()
	dir, err := sys.Openat(j.fd, batchName(c.batch), syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err == syscall.ENOENT {
		return nil, session.Fail(syscall.ESTALE, "the outcomes of this batch were acknowledged")
	}
	if err != nil {
		return nil, err
	}
	defer syscall.Close(dir)
	log, err := readLog(dir, "log")
	if err != nil {
		return nil, err
	}
	if log.header.incarnation != c.incarnation {
		return nil, session.Fail(syscall.ESTALE, "another incarnation used this batch number")
	}
	// What was to be synced is in the archive, which is not read a second time.
	return a.answer(r, j, c.batch, &manifest{syncAll: true, locked: true}, log.outcomes, true)
}

// answer sends the outcomes and syncs what is to be synced.
func (a *Applier) answer(r *session.Request, j *journal, batch int64, m *manifest, results []outcome, replayed bool) ([]byte, error) {
	pass("reply")
	records := files.NewRecords(r, nil)
	for i := range results {
		if err := records.Done(results[i].answer(records.Value(), replayed)); err != nil {
			return nil, err
		}
	}
	if err := records.Flush(); err != nil {
		return nil, err
	}
	if err := a.sync(j, m); err != nil {
		return nil, err
	}
	durable := int64(0)
	if j != nil {
		j.mu.Lock()
		durable = j.durable
		j.mu.Unlock()
	}
	seen := uint64(0)
	if m.locked || m.locks() {
		seen = a.drain(r.Done())
	}
	bytes, inodes, _ := files.Free(a.space.FD)
	b := msgpack.AppendInt(msgpack.AppendArray(nil, 5), batch)
	b = msgpack.AppendUint(msgpack.AppendInt(b, durable), bytes)
	return msgpack.AppendUint(msgpack.AppendUint(b, inodes), seen), nil
}

// Detach is `detach`.
func (a *Applier) Detach(r *session.Request) ([]byte, error) {
	id := r.Args.At(1)
	if id.Kind != msgpack.Bin || len(id.Bytes) != 16 {
		return nil, session.Invalid("detach takes a journal of 16 bytes")
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
	name := journalID(id.Bytes)
	a.jmu.Lock()
	defer a.jmu.Unlock()
	if j := a.journals[name]; j != nil {
		if err := a.stillOurs(j); err != nil {
			return nil, err
		}
		delete(a.journals, name)
		if a.attached == j {
			a.attached = nil
		}
	}
	return nil, removeTree(a.state.fd, name)
}
