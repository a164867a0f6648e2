// Package user becomes the workspace user. It reads the account files itself: a static program has no other way, and
// su may be absent in a box.
package user

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Account is a line of /etc/passwd with its groups.
type Account struct {
	Name   string
	UID    int
	GID    int
	Home   string
	Shell  string
	Groups []int
}

// Find looks a user up by name or number. A number without an account is taken as it is, with the group of the same number.
func Find(who, passwd, group string) (Account, error) {
	number, numeric := strconv.Atoi(who)
	var found *Account
	for _, line := range lines(passwd) {
		f := strings.Split(line, ":")
		if len(f) < 7 {
			continue
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 != nil || err2 != nil || uid < 0 || gid < 0 {
			continue
		}
		if f[0] == who || numeric == nil && found == nil && uid == number {
			found = &Account{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]}
			if f[0] == who {
				break
			}
		}
	}
	if found == nil {
		if numeric != nil || number < 0 {
			return Account{}, errors.New("no such user: " + who)
		}
		found = &Account{Name: who, UID: number, GID: number, Home: "/"}
	}
	found.Groups = []int{found.GID}
	for _, line := range lines(group) {
		f := strings.Split(line, ":")
		if len(f) < 4 {
			continue
		}
		gid, err := strconv.Atoi(f[2])
		if err != nil || gid == found.GID {
			continue
		}
		for _, member := range strings.Split(f[3], ",") {
			if member == found.Name {
				found.Groups = append(found.Groups, gid)
			}
		}
	}
	return *found, nil
}

func lines(path string) []string {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Split(string(content), "\n")
}

// Become drops to a user for good. Only root may become another user; a process that is the user already has nothing to do.
func Become(who string) error {
	account, err := Find(who, "/etc/passwd", "/etc/group")
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		if os.Geteuid() == account.UID {
			return nil
		}
		return errors.New("only root can become " + who)
	}
	if err := syscall.Setgroups(account.Groups); err != nil {
		return errors.New("setgroups: " + err.Error())
	}
	if err := syscall.Setgid(account.GID); err != nil {
		return errors.New("setgid: " + err.Error())
	}
	if err := syscall.Setuid(account.UID); err != nil {
		return errors.New("setuid: " + err.Error())
	}
	os.Setenv("HOME", account.Home)
	os.Setenv("USER", account.Name)
	os.Setenv("LOGNAME", account.Name)
	if account.Shell != "" {
		os.Setenv("SHELL", account.Shell)
	}
	return nil
}
