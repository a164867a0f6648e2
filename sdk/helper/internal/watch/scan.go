package watch

import (
	"syscall"
	"time"
)

// startScanning begins to look at the directories that inotify does not watch. The caller holds mu.
func (w *watch) startScanning() {
	if w.scanning {
		return
	}
	w.scanning = true
	go func() {
		ticker := time.NewTicker(scanEvery)
		defer ticker.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-ticker.C:
				w.scan()
			}
		}
	}()
}

// scan compares times. What changed in a directory is not known by that: the client lists it again. What is written into
// a file does not show at all.
func (w *watch) scan() {
	w.mu.Lock()
	nodes := append([]*node(nil), w.scanned...)
	w.mu.Unlock()
	found := false
	for _, n := range nodes {
		w.mu.Lock()
		path, gone := n.path(), n.gone
		w.mu.Unlock()
		if gone {
			continue
		}
		fd, err := w.hub.space.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY, false)
		stamp := [2]int64{}
		if err == nil {
			stamp = stampOf(fd)
			syscall.Close(fd)
		}
		if stamp == n.stamp {
			continue
		}
		n.stamp = stamp
		w.mu.Lock()
		w.overflow[n] = true
		if err != nil {
			w.detach(n)
		} else if w.walk {
			w.addTree(n, false)
		}
		w.mu.Unlock()
		found = true
	}
	w.mu.Lock()
	kept := w.scanned[:0]
	for _, n := range w.scanned {
		if !n.gone {
			kept = append(kept, n)
		}
	}
	w.scanned = kept
	w.mu.Unlock()
	if found {
		w.poke()
	}
}
