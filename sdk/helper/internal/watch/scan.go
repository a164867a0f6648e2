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
		pause := scanEvery
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(pause):
			}
			began := time.Now()
			w.scan()
			// A large box is looked at less often: no more than a twentieth of a processor goes into it.
			if pause = 20 * time.Since(began); pause < scanEvery {
				pause = scanEvery
			}
		}
	}()
}

// scan compares what is known of directories and their entries. The client lists one again in which anything differs.
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
		var stamp uint64
		if err == nil {
			stamp = w.stampOf(path, fd)
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
			w.addTree(n, nothing)
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
