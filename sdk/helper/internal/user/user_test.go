package user_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"sealos.io/devbox-helper/internal/user"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	os.WriteFile(passwd, []byte("root:x:0:0:root:/root:/bin/sh\nshort:x:1\nbad:x:a:b:::\nneg:x:-5:1:::\ndev:x:1000:1001::/home/dev:/bin/bash\n2000:x:7:8::/seven:\n"), 0o600)
	os.WriteFile(group, []byte("root:x:0:\nshort\nbad:x:q:dev\ndev:x:1001:dev\ndocker:x:50:a,dev\nothers:x:51:b\n"), 0o600)
	for who, want := range map[string]string{
		"dev":  "{dev 1000 1001 /home/dev /bin/bash [1001 50]}",
		"1000": "{dev 1000 1001 /home/dev /bin/bash [1001 50]}",
		"4242": "{4242 4242 4242 /  [4242]}", // nobody's
		"2000": "{2000 7 8 /seven  [8]}",     // a name of digits goes before the number
		"root": "{root 0 0 /root /bin/sh [0]}",
	} {
		got, err := user.Find(who, passwd, group)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v %v", who, got, err)
		}
	}
	for _, who := range []string{"nobody-here", "bad", "neg", "-5", "short"} {
		if got, err := user.Find(who, passwd, group); err == nil {
			t.Errorf("%s: %v", who, got)
		}
	}
	if got, err := user.Find("12", filepath.Join(dir, "none"), filepath.Join(dir, "none")); err != nil || got.UID != 12 {
		t.Error(got, err)
	}
}

func TestBecome(t *testing.T) {
	if err := user.Become("nobody-here-at-all"); err == nil {
		t.Error("became nobody")
	}
	if os.Geteuid() != 0 {
		if err := user.Become(fmt.Sprint(os.Geteuid())); err != nil {
			t.Error(err)
		}
		if err := user.Become("0"); err == nil {
			t.Error("became root")
		}
	}
}
