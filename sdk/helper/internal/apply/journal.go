package apply

import (
	"encoding/hex"
	"strconv"
	"sync"
	"syscall"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
)

// A journal's directory, <state>/<journal in hex>/, has
//
//	meta        [generation, durable, boot id, last, trouble]: replaced whole
//	reserve     room set aside
//	new-*/      batches that are arriving
//	N/          batch N, accepted. N/manifest: not complete yet. N/log: its outcomes. N/0...: staged contents.
//	            N/old-SEQ, N/gone-SEQ: displaced objects until the outcome is logged
//
// A batch's directory goes when the client has acknowledged its outcomes and its changes are on stable storage.
type journal struct {
	id         string
	fd         int
	generation int64

	mu        sync.Mutex
	advanced  chan struct{} // closed when anything below changes
	last      int64         // the last batch that was applied
	durable   int64
	acked     int64
	announced map[int64]int  // batches that are arriving, or being applied
	failed    map[int64]bool // ended without having been applied
	logged    map[int64][]identity
	left      map[identity]*outcome
	hints     map[int64]*hints // by batch: of logs written before the machine was restarted
	trouble   *identity
	reserved  bool // see reserve.go
	broken    bool // the last batch could not be completed: recover first
}

// hints is what a log says that is not trusted any more: what it tells of may be gone, and the reverse.
type hints struct {
	outcomes map[int64]outcome
	intents  map[int64]uint64
}

type meta struct {
	generation, durable, last int64
	boot                      string
	trouble                   *identity
}

func (m meta) encode() []byte {
	b := msgpack.AppendInt(msgpack.AppendArray(nil, 5), m.generation)
	b = msgpack.AppendBinString(msgpack.AppendInt(b, m.durable), m.boot)
	b = msgpack.AppendInt(b, m.last)
	if m.trouble == nil {
		return msgpack.AppendNil(b)
	}
	return msgpack.AppendInt(msgpack.AppendBin(msgpack.AppendArray(b, 2), m.trouble.incarnation[:]), m.trouble.seq)
}

func readMeta(dir int) (meta, error) {
	var m meta
	b, err := readFile(dir, "meta")
	if err == syscall.ENOENT {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	v, err := msgpack.Decode(b)
	if err != nil {
		return m, nil // torn by the end of the machine: nothing is known
	}
	m.generation, m.durable, m.boot, m.last = v.At(0).Int, v.At(1).Int, string(v.At(2).Bytes), v.At(3).Int
	if t := v.At(4); !t.IsNil() {
		m.trouble = &identity{seq: t.At(1).Int}
		copy(m.trouble.incarnation[:], t.At(0).Bytes)
	}
	return m, nil
}

func openJournal(state int, id string) (*journal, meta, error) {
	if err := sys.Mkdirat(state, id, 0o700); err != nil && err != syscall.EEXIST {
		return nil, meta{}, err
	}
	fd, err := sys.Openat(state, id, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, meta{}, err
	}
	m, err := readMeta(fd)
	if err != nil {
		syscall.Close(fd)
		return nil, m, err
	}
	j := &journal{
		id: id, fd: fd, generation: m.generation, last: m.last, durable: m.durable, trouble: m.trouble,
		advanced: make(chan struct{}), announced: map[int64]int{}, failed: map[int64]bool{}, logged: map[int64][]identity{},
		left: map[identity]*outcome{}, hints: map[int64]*hints{},
	}
	return j, m, nil
}

// save writes the meta file. The caller holds mu, or is alone.
func (j *journal) save(boot string) error {
	return writeFile(j.fd, "meta", meta{j.generation, j.durable, j.last, boot, j.trouble}.encode())
}

func (j *journal) changedLocked() {
	close(j.advanced)
	j.advanced = make(chan struct{})
}

func batchName(batch int64) string { return strconv.FormatInt(batch, 10) }

// turn is what begin decides about a batch.
type turn struct {
	replay bool // it was applied: answer from its log
	follow bool // the one before it is on its way: wait for it
}

// announce notes, in the order in which the requests came, that a batch is on its way.
func (j *journal) announce(batch int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.announced[batch]++
	delete(j.failed, batch)
}

// begin decides whether a batch that was announced may come now.
func (j *journal) begin(batch, acked int64) (turn, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.acked = max(j.acked, acked)
	switch {
	case batch <= 0:
		return turn{}, session.Invalid("batches are numbered from 1")
	case batch <= j.last:
		return turn{replay: true}, nil
	case j.announced[batch] > 1:
		return turn{}, session.Invalid("this batch is on its way already")
	case j.announced[batch-1] > 0:
		return turn{follow: true}, nil
	case batch == j.last+1 || j.last == 0 && j.first(batch):
		return turn{}, nil
	}
	return turn{}, session.Fail(syscall.ECANCELED, "the batch before this one was not applied")
}

// first tells whether no batch of a lower number is on its way. The caller holds mu.
func (j *journal) first(batch int64) bool {
	for other := range j.announced {
		if other < batch {
			return false
		}
	}
	return true
}

// end notes that a batch is no longer on its way.
func (j *journal) end(batch int64, applied bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.announced[batch]--; j.announced[batch] <= 0 {
		delete(j.announced, batch)
	}
	if !applied && batch > j.last {
		j.failed[batch] = true
	}
	j.changedLocked()
}

// wait waits until ready says so. The request's cancellation ends it.
func (j *journal) wait(r *session.Request, ready func() (bool, error)) error {
	for {
		j.mu.Lock()
		done, err := ready()
		advanced := j.advanced
		j.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-advanced:
		case <-r.Done():
			return syscall.ECANCELED
		}
	}
}

// waitTurn waits until the batch before this one has ended.
func (j *journal) waitTurn(r *session.Request, batch int64) error {
	return j.wait(r, func() (bool, error) {
		if j.last >= batch-1 {
			return true, nil
		}
		if j.announced[batch-1] == 0 {
			return false, session.Fail(syscall.ECANCELED, "the batch before this one was not applied")
		}
		return false, nil
	})
}

// waitApplied waits until a batch was applied; ECANCELED if it ends without.
func (j *journal) waitApplied(r *session.Request, batch int64) error {
	return j.wait(r, func() (bool, error) {
		if j.last >= batch {
			return true, nil
		}
		if j.failed[batch] && j.announced[batch] == 0 {
			return false, session.Fail(syscall.ECANCELED, "the batch to wait for was not applied")
		}
		return false, nil
	})
}

// record keeps an outcome for preconditions of later operations.
func (j *journal) record(batch int64, inc incarnation, o outcome) {
	j.mu.Lock()
	defer j.mu.Unlock()
	id := identity{inc, o.seq}
	j.left[id] = &o
	j.logged[batch] = append(j.logged[batch], id)
}

func (j *journal) lookup(id identity) *outcome {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.left[id]
}

// forget removes the batches whose outcomes the client has and whose changes are on stable storage.
func (j *journal) forget(boot string) {
	j.mu.Lock()
	limit := min(j.acked, j.durable)
	var names []string
	for batch, ids := range j.logged {
		if batch > limit {
			continue
		}
		names = append(names, batchName(batch))
		delete(j.logged, batch)
		for _, id := range ids {
			delete(j.left, id)
		}
	}
	var err error
	if len(names) > 0 {
		err = j.save(boot) // from now on the last batch's number stands there alone
	}
	j.mu.Unlock()
	if err == nil {
		for _, name := range names {
			removeTree(j.fd, name)
		}
	}
}

func journalID(b []byte) string { return hex.EncodeToString(b) }
