package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// umask reads the process's umask, which can only be read by setting it.
func umask() int {
	mask := syscall.Umask(0o022)
	syscall.Umask(mask)
	return mask
}

func bootID() string {
	content, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(content))
}

// epoch names the life of the box's root file system: the boot, and the start of process 1 in it. (The times of the
// root directory would not do: they change with every entry that is made there.)
func epoch() string {
	stat, _ := os.ReadFile("/proc/1/stat")
	started := ""
	// The second field is in parentheses and may hold anything; field 22 is the start in clock ticks since the boot.
	if i := strings.LastIndexByte(string(stat), ')'); i >= 0 {
		if fields := strings.Fields(string(stat)[i+1:]); len(fields) > 19 {
			started = fields[19]
		}
	}
	var st syscall.Stat_t
	syscall.Stat("/", &st)
	sum := sha256.Sum256([]byte(bootID() + "\n" + started + "\n" + strconv.FormatUint(uint64(st.Dev), 10)))
	return hex.EncodeToString(sum[:16])
}

// clean makes a str of what the system says.
func clean(s string) string { return strings.ToValidUTF8(s, "?") }
