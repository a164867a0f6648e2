package apply

import (
	"syscall"

	"sealos.io/devbox-helper/internal/sys"
)

func (a *Applier) newRun(j *journal, h header, s *staging, log *batchLog) *run {
	r := &run{
		space: a.space, track: a.track, event: a.event, state: a.state, dir: s.fd, staged: s.contents, dirs: newDirs(a.space), log: log,
		incarnation: h.incarnation, leases: a.leases,
	}
	if j != nil {
		r.journal, r.generation = j.id, j.generation
		r.left, r.hints = j.lookup, j.hints[h.batch]
	} else {
		own := map[identity]*outcome{}
		r.left = func(id identity) *outcome { return own[id] }
		r.keepOutcome = func(o outcome) { own[identity{h.incarnation, o.seq}] = &o }
	}
	return r
}

// execute carries out an accepted batch, from where its log ends. The caller holds the locks.
func (a *Applier) execute(j *journal, h header, s *staging, log *batchLog, begun *replay) ([]outcome, error) {
	r := a.newRun(j, h, s, log)
	defer r.dirs.close()
	var results []outcome
	stopped := false
	if begun != nil {
		results, r.intents = begun.outcomes, begun.intents
		for _, o := range results {
			j.record(h.batch, h.incarnation, o)
		}
	}
	if j != nil {
		j.noteTrouble(h, results)
		stopped = j.trouble != nil && !h.bypass
		if len(results) > 0 && trouble(results[len(results)-1].errno) {
			stopped = true
		}
	}
	first := len(results)
	if first > 0 {
		r.dropDisplaced(&s.manifest.operations[first-1], results[first-1])
	}
	for i := first; i < len(s.manifest.operations); i++ {
		o := &s.manifest.operations[i]
		r.doubt = begun != nil && i == first || r.hints != nil
		result := outcome{seq: o.seq, errno: syscall.ECANCELED}
		var err error
		if stopped {
			err = log.outcome(&result)
		} else {
			result, err = r.one(o)
		}
		if err != nil {
			return nil, err
		}
		if result.failed() {
			r.dropContents(o)
		}
		results = append(results, result)
		if j != nil {
			j.record(h.batch, h.incarnation, result)
			j.noteOutcome(h, result)
		} else {
			r.keepOutcome(result)
		}
		stopped = stopped || trouble(result.errno)
	}
	if j == nil {
		return results, nil
	}
	return results, a.complete(j, h, s, log)
}

// complete marks a batch as applied.
func (a *Applier) complete(j *journal, h header, s *staging, log *batchLog) error {
	pass("finished")
	if err := log.end(); err != nil {
		return err
	}
	syscall.Ftruncate(log.fd, log.offset) // gives back the room that was reserved
	if err := sys.Unlinkat(s.fd, "manifest", 0); err != nil {
		return err
	}
	pass("complete")
	j.mu.Lock()
	j.last = h.batch
	delete(j.hints, h.batch)
	if _, known := j.logged[h.batch]; !known {
		j.logged[h.batch] = nil
	}
	j.changedLocked()
	j.mu.Unlock()
	j.forget(a.boot)
	if j.trouble == nil {
		j.setReserve()
	}
	return nil
}
