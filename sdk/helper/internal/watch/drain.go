package watch

import (
	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/session"
)

// CaughtUp serves `caught_up`: the answer to Drain.
func (h *Hub) CaughtUp(r *session.Request) ([]byte, error) {
	r.Event = h.Event()
	return msgpack.AppendUint(nil, h.Drain(r.Done())), nil
}

// Drain returns once every change that was made before the call, and that the watch without walk can know of, has been
// decided: the number of its last event. 0: there is no such watch, or the caller has gone.
func (h *Hub) Drain(gone <-chan struct{}) uint64 {
	h.lazyMu.Lock()
	w := h.lazy
	h.lazyMu.Unlock()
	if w == nil {
		return 0
	}
	w.mu.Lock()
	scanning := w.scanning
	w.mu.Unlock()
	if scanning {
		w.scan()
	}
	drained := make(chan struct{})
	w.mu.Lock()
	w.drains = append(w.drains, drained)
	w.mu.Unlock()
	w.poke()
	select {
	case <-drained:
	case <-gone:
		return 0
	case <-w.r.Done():
		return 0
	}
	h.track.Lock()
	defer h.track.Unlock()
	return w.last
}

// drained answers those who had asked before the queue was found empty, now that what came of it is decided.
func (w *watch) drained(asked []chan struct{}) {
	w.mu.Lock()
	w.drains = w.drains[len(asked):]
	w.mu.Unlock()
	for _, one := range asked {
		close(one)
	}
}
