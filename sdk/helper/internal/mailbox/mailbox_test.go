package mailbox_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealos.io/devbox-helper/internal/mailbox"
)

func message(payload string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...)
}

var ending = []byte{255, 255, 255, 255}

func put(t *testing.T, dir string, number int, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(number)), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) (*mailbox.Reader, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "box")
	r, err := mailbox.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r, dir
}

func TestMessagesInOrderWhateverOrderTheyComeIn(t *testing.T) {
	r, dir := open(t)
	put(t, dir, 2, message("three"))
	put(t, dir, 1, message("two"))
	put(t, dir, 3, ending)
	done := make(chan string)
	go func() {
		all, err := io.ReadAll(r)
		done <- fmt.Sprint(string(all), err)
	}()
	put(t, dir, 0, message("one"))
	if got := <-done; got != "onetwothree<nil>" {
		t.Fatal(got)
	}
}

func TestAMessageCountsOnceItIsWhole(t *testing.T) {
	r, dir := open(t)
	whole := message(strings.Repeat("x", 1000))
	file, err := os.Create(filepath.Join(dir, "0"))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan int)
	go func() {
		b := make([]byte, 2000)
		n, _ := r.Read(b)
		got <- n
	}()
	for i := 0; i < len(whole); i += 100 {
		select {
		case n := <-got:
			t.Fatalf("%d bytes of a message that is not whole", n)
		default:
		}
		file.Write(whole[i:min(len(whole), i+100)])
	}
	if n := <-got; n != 1000 {
		t.Fatal(n)
	}
}

func TestAMessageThatComesAgainIsRemoved(t *testing.T) {
	r, dir := open(t)
	put(t, dir, 0, message("one"))
	b := make([]byte, 10)
	if n, err := r.Read(b); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	put(t, dir, 0, message("one"))
	go func() {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(dir + "/0"); err != nil {
				break
			}
		}
		put(t, dir, 1, message("two"))
	}()
	if n, err := r.Read(b); string(b[:n]) != "two" || err != nil {
		t.Fatal(string(b[:n]), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatal(left)
	}
}

func TestTheStreamEndsWithTheDirectory(t *testing.T) {
	r, dir := open(t)
	os.RemoveAll(dir)
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
}

func TestAMessageBeyondTheLimitEndsTheStream(t *testing.T) {
	r, dir := open(t)
	put(t, dir, 0, binary.BigEndian.AppendUint32(nil, mailbox.MaxMessage+1))
	if _, err := r.Read(make([]byte, 1)); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	content := bytes.Repeat([]byte("0123456789\n\r\xff"), 20_000)
	if n, err := mailbox.NewLines(&out).Write(content); n != len(content) || err != nil {
		t.Fatal(n, err)
	}
	var back []byte
	for _, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
		if len(line) > 65536 {
			t.Fatal(len(line))
		}
		piece, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		back = append(back, piece...)
	}
	if !bytes.Equal(back, content) {
		t.Fatal("not what was written")
	}
}
