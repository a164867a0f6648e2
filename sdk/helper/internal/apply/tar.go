package apply

import (
	"bytes"
	"io"
	"math"
	"strconv"
	"strings"

	"sealos.io/devbox-helper/internal/session"
)

// The tar format as POSIX pax has it (IEEE Std 1003.1, pax, "ustar Interchange Format" and "pax Extended Header").
// archive/tar is not used: it reads times through a detour that our exactness should not depend on, and copies contents.
const (
	blockSize    = 512
	maxPaxHeader = 1 << 20
)

// source hands out the client's DATA payloads; io.EOF after END.
type source func() ([]byte, error)

// tarReader reads the members of one archive. Contents are handed on in the pieces they arrived in.
type tarReader struct {
	next source
	rest []byte
}

// member is the head of a member.
type member struct {
	name  string
	size  int64
	mode  uint32
	mtime int64
}

var errTar = session.Invalid("not a PAX archive as the protocol has it")

// cut is what an end of the stream in the middle of the archive means.
func cut(err error) error {
	if err == io.EOF {
		return session.Invalid("the archive is cut")
	}
	return err
}

func (t *tarReader) fill() error {
	for len(t.rest) == 0 {
		b, err := t.next()
		if err != nil {
			return cut(err)
		}
		t.rest = b
	}
	return nil
}

// pieces calls each with the next n bytes.
func (t *tarReader) pieces(n int64, each func([]byte) error) error {
	for n > 0 {
		if err := t.fill(); err != nil {
			return err
		}
		piece := t.rest[:min(n, int64(len(t.rest)))]
		if err := each(piece); err != nil {
			return err
		}
		t.rest = t.rest[len(piece):]
		n -= int64(len(piece))
	}
	return nil
}

func (t *tarReader) skip(n int64) error { return t.pieces(n, func([]byte) error { return nil }) }

// bytes returns the next n bytes, which are valid until the next call.
func (t *tarReader) bytes(n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if err := t.fill(); err != nil {
		return nil, err
	}
	if len(t.rest) >= n {
		b := t.rest[:n]
		t.rest = t.rest[n:]
		return b, nil
	}
	b := make([]byte, 0, n)
	err := t.pieces(int64(n), func(p []byte) error {
		b = append(b, p...)
		return nil
	})
	return b, err
}

func padding(size int64) int64 { return -size & (blockSize - 1) }

// header returns the next member; false at the archive's end.
func (t *tarReader) header() (member, bool, error) {
	var m member
	var extended map[string]string
	for {
		b, err := t.bytes(blockSize)
		if err != nil {
			return m, false, err
		}
		if allZero(b) {
			if extended != nil {
				return m, false, errTar
			}
			return m, false, t.end()
		}
		size, ok := octal(b[124:136])
		if !ok || !checksum(b) {
			return m, false, errTar
		}
		switch b[156] {
		case 'x':
			if extended != nil || size > maxPaxHeader {
				return m, false, errTar
			}
			raw, err := t.bytes(int(size))
			if err != nil {
				return m, false, err
			}
			if extended, err = paxRecords(raw); err != nil {
				return m, false, err
			}
			if err := t.skip(padding(size)); err != nil {
				return m, false, err
			}
			continue
		case '0', 0:
		default:
			return m, false, errTar
		}
		mode, ok1 := octal(b[100:108])
		seconds, ok2 := octal(b[136:148])
		if !ok1 || !ok2 || seconds > math.MaxInt64/1_000_000_000 {
			return m, false, errTar
		}
		m = member{name: text(b[:100]), size: size, mode: uint32(mode) & 0o7777, mtime: seconds * 1e9}
		return m, true, m.extend(extended)
	}
}

func (m *member) extend(extended map[string]string) error {
	if v, ok := extended["path"]; ok {
		m.name = v
	}
	if v, ok := extended["size"]; ok {
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil {
			return errTar
		}
		m.size = int64(n)
	}
	if v, ok := extended["mtime"]; ok {
		n, ok := nanoseconds(v)
		if !ok {
			return session.Invalid("mtime is decimal seconds with at most nine fractional digits")
		}
		m.mtime = n
	}
	return nil
}

// end reads the second zero block; what follows it is zeros.
func (t *tarReader) end() error {
	b, err := t.bytes(blockSize)
	if err != nil {
		return err
	}
	if !allZero(b) {
		return errTar
	}
	for {
		if !allZero(t.rest) {
			return errTar
		}
		if t.rest, err = t.next(); err == io.EOF {
			t.rest = nil
			return nil
		} else if err != nil {
			return err
		}
	}
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// checksum compares a header's checksum: the sum of its bytes, the field itself taken as spaces.
func checksum(b []byte) bool {
	want, ok := octal(b[148:156])
	sum := int64(8 * ' ')
	for i, c := range b {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	return ok && sum == want
}

// octal reads a number field, which ends with NUL or space.
func octal(b []byte) (int64, bool) {
	s := strings.Trim(text(b), " ")
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 8, 63)
	return int64(n), err == nil
}

func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// paxRecords reads "length key=value\n" records, of which length counts the whole record.
func paxRecords(b []byte) (map[string]string, error) {
	records := map[string]string{}
	for len(b) > 0 {
		i := bytes.IndexByte(b, ' ')
		if i < 1 {
			return nil, errTar
		}
		n, err := strconv.ParseUint(string(b[:i]), 10, 31)
		if err != nil || int(n) > len(b) || int(n) < i+3 || b[n-1] != '\n' {
			return nil, errTar
		}
		key, value, ok := strings.Cut(string(b[i+1:n-1]), "=")
		if !ok {
			return nil, errTar
		}
		records[key] = value
		b = b[n:]
	}
	return records, nil
}

// nanoseconds reads decimal seconds. The sign is that of the whole number: -1.5 is 1.5 s before the epoch.
func nanoseconds(s string) (int64, bool) {
	s, negative := strings.CutPrefix(s, "-")
	whole, fraction, point := strings.Cut(s, ".")
	if !digits(whole) || point && (!digits(fraction) || len(fraction) > 9) || len(whole) > 10 {
		return 0, false
	}
	seconds, _ := strconv.ParseUint(whole, 10, 64)
	rest := uint64(0)
	if point {
		rest, _ = strconv.ParseUint((fraction + "00000000")[:9], 10, 64)
	}
	n := seconds*1e9 + rest // at most 9,999,999,999.999999999 s: no overflow of uint64
	switch {
	case negative && n <= 1<<63:
		return -int64(n), true
	case !negative && n < 1<<63:
		return int64(n), true
	}
	return 0, false
}

func digits(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}
