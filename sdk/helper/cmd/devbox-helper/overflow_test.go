package main_test

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// unnoticed makes changes of which the helper hears nothing but that its queue ran over.
func (c *client) unnoticed(dir string, changes func()) {
	c.t.Helper()
	content, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		c.t.Fatal(err)
	}
	most, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	c.cmd.Process.Signal(syscall.SIGSTOP)
	for i := range most * 3 / 2 { // of two names in turn: equal events that follow each other are one
		os.Chmod(fmt.Sprint(dir, "/noise", i%2), os.FileMode(0o600+i/2%2*0o44))
	}
	changes()
	c.cmd.Process.Signal(syscall.SIGCONT)
	for {
		if _, mask, _, _ := c.next(); mask == 0x4000 {
			return
		}
	}
}

// tells has a file made in each directory and waits for an event of each.
func (c *client) tells(dir, name string, directories []string) {
	c.t.Helper()
	missing := map[string]bool{}
	for _, d := range directories {
		path := filepath.Join(d, name)
		missing[path] = true
		write(c.t, dir+"/"+path, "x")
	}
	write(c.t, dir+"/end of "+name, "")
	for _, e := range c.until("end of " + name) {
		if !e.At(3).IsNil() {
			delete(missing, string(e.At(1).Bytes))
		}
	}
	for path := range missing {
		c.t.Errorf("nothing is told of %s", path)
	}
}

func noisy(t *testing.T) string {
	dir := workspace(t)
	write(t, dir+"/noise0", "")
	write(t, dir+"/noise1", "")
	return dir
}

// TestDirectoriesThatMoveDuringAnOverflow: whatever was renamed meanwhile, and in whatever order the client lists what
// there is now, all of it is watched afterwards.
func TestDirectoriesThatMoveDuringAnOverflow(t *testing.T) {
	const known = "P P/sub P/sub/deep R R/sub"
	for name, tc := range map[string]struct{ script, order string }{
		"another one in its place":        {"mv P Q;mkdir P P/sub", "P/sub Q P"},
		"the same, from above":            {"mv P Q;mkdir P P/sub", "P P/sub Q Q/sub Q/sub/deep"},
		"into one of its name":            {"mv P Q;mkdir P;mv Q P/sub", "P/sub/sub P/sub P P/sub/sub/deep"},
		"over another known one":          {"rm R;mv P R", "R/sub/deep R/sub R"},
		"two have changed names":          {"mv P T;mv R P;mv T R", "R/sub/deep P/sub R/sub P R"},
		"its child has taken its place":   {"mv P/sub T;rm P;mv T P", "P/deep P"},
		"a child has gone somewhere else": {"mv P/sub R/other;mkdir P/sub", "P/sub R/other/deep R/other R P"},
		"gone and made again":             {"rm P;mkdir P P/sub", "P/sub P"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := noisy(t)
			write(t, dir+"/P/sub/deep/f", "")
			write(t, dir+"/R/sub/f", "")
			c := start(t, dir, options{})
			c.watch("", false)
			for _, d := range strings.Fields(known) {
				c.must("list", b(d), 0, false)
			}
			c.unnoticed(dir, func() {
				for _, step := range strings.Split(tc.script, ";") {
					words := strings.Fields(step)
					switch words[0] {
					case "mv":
						os.Rename(dir+"/"+words[1], dir+"/"+words[2])
					case "rm":
						os.RemoveAll(dir + "/" + words[1])
					case "mkdir":
						for _, d := range words[1:] {
							os.Mkdir(dir+"/"+d, 0o755)
						}
					}
				}
			})
			order := strings.Fields(tc.order)
			for _, d := range order {
				c.must("list", b(d), 0, false)
			}
			c.tells(dir, "made", order)
		})
	}
}

// TestAnyMovesDuringAnOverflow: the same with trees, renames and orders that come by chance.
func TestAnyMovesDuringAnOverflow(t *testing.T) {
	for seed := range int64(3) {
		for _, walk := range []bool{false, true} {
			t.Run(fmt.Sprint(seed, walk), func(t *testing.T) { anyMoves(t, rand.New(rand.NewSource(seed)), walk) })
		}
	}
}

func anyMoves(t *testing.T, random *rand.Rand, walk bool) {
	dir := noisy(t)
	directories := func() (all []string) {
		filepath.WalkDir(dir, func(path string, entry os.DirEntry, _ error) error {
			if entry.IsDir() && path != dir {
				all = append(all, path[len(dir)+1:])
			}
			return nil
		})
		return all
	}
	one := func() string {
		all := append(directories(), "")
		return all[random.Intn(len(all))]
	}
	grow := func() { os.Mkdir(filepath.Join(dir, one(), string(rune('a'+random.Intn(4)))), 0o755) }
	for range 40 {
		grow()
	}
	c := start(t, dir, options{})
	c.watch("", walk)
	for _, d := range directories() {
		c.must("list", b(d), 0, false)
	}
	for round := range 2 {
		c.unnoticed(dir, func() {
			for range 30 {
				switch from, to := one(), filepath.Join(one(), string(rune('a'+random.Intn(4)))); {
				case from == "":
				case random.Intn(4) == 0:
					os.RemoveAll(dir + "/" + from)
				default:
					os.Rename(dir+"/"+from, dir+"/"+to)
				}
				grow()
				grow()
			}
		})
		all := directories()
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if !walk {
			for _, d := range all {
				c.must("list", b(d), 0, false)
			}
		}
		c.tells(dir, fmt.Sprint("made", round), all)
	}
}
