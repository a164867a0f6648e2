package apply

import (
	"bytes"
	"encoding/hex"
	"io"
	"math/rand"
	"os"
	"strconv"
	"testing"

	"sealos.io/devbox-helper/internal/sys"
	"sealos.io/devbox-helper/internal/vectors"
)

type tarFile struct {
	Tars []struct {
		Name, Hex string
		Manifest  any
		Members   []struct {
			Name    string
			Mode    uint32
			Mtime   int64 `json:"mtime_ns"`
			Content string
		}
	}
	Refused []struct{ Hex, Why string }
}

// pieces hands out b in pieces of at most n bytes.
func pieces(b []byte, n int) source {
	return func() ([]byte, error) {
		if len(b) == 0 {
			return nil, io.EOF
		}
		piece := b[:min(n, len(b))]
		b = b[len(piece):]
		return piece, nil
	}
}

func stage(t *testing.T, b []byte, n int) (*staging, error) {
	t.Helper()
	dir, err := sys.Openat(sys.AtFDCWD, t.TempDir(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newStaging(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.discard)
	return s, s.receive(pieces(b, n), incarnation{})
}

func TestTarVectors(t *testing.T) {
	var f tarFile
	vectors.Load(t, "apply_tar", &f)
	for _, v := range f.Tars {
		raw := vectors.Hex(t, v.Hex)
		for _, n := range []int{1, 511, 513, 1 << 20} {
			s, err := stage(t, raw, n)
			if err != nil {
				t.Fatalf("%s: %v", v.Name, err)
			}
			want := vectors.Value(t, v.Manifest).Append(nil)
			if !bytes.Equal(s.raw, want) || len(s.manifest.operations) != len(vectors.Value(t, v.Manifest).At(0).Items) {
				t.Errorf("%s: manifest %x", v.Name, s.raw)
			}
			for _, m := range v.Members {
				number, _ := strconv.Atoi(m.Name)
				got := s.contents[number]
				content, err := os.ReadFile(sys.ProcName(s.fd, m.Name))
				if err != nil || hex.EncodeToString(content) != m.Content || got.mtime != m.Mtime || got.size != int64(len(content)) {
					t.Errorf("%s: %+v %v", v.Name, got, err)
				}
				look, _ := inDir(s.fd, m.Name).look()
				put := false
				for _, o := range s.manifest.operations {
					put = put || o.content == number
				}
				// ext4 keeps times from 1901 to 2446; others have other ranges.
				if look.Mtime != m.Mtime && m.Mtime > -2e18 || put && look.Mode&0o7777 != m.Mode {
					t.Errorf("%s: %+v", v.Name, look)
				}
			}
		}
	}
	for _, v := range f.Refused {
		if _, err := stage(t, vectors.Hex(t, v.Hex), 1000); err == nil {
			t.Errorf("%s: accepted", v.Why)
		}
	}
	// Cut anywhere, it is refused; damaged anywhere, nothing breaks.
	raw := vectors.Hex(t, f.Tars[1].Hex)
	for cut := 0; cut < len(raw); cut += 61 {
		if _, err := stage(t, raw[:cut], 700); err == nil {
			t.Fatalf("cut at %d", cut)
		}
	}
	random := rand.New(rand.NewSource(4))
	for i := 0; i < 200; i++ {
		broken := bytes.Clone(raw)
		broken[random.Intn(len(broken))] = byte(random.Intn(256))
		s, err := stage(t, broken, 700)
		_, _ = s, err
	}
}

func TestNanoseconds(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "-0": 0, "1.5": 1500000000, "-1.5": -1500000000, "0.000000001": 1, "-0.1": -100000000,
		"9223372036.854775807": 1<<63 - 1, "-9223372036.854775808": -1 << 63} {
		if got, ok := nanoseconds(s); !ok || got != want {
			t.Error(s, got, ok)
		}
	}
	for _, s := range []string{"", "-", ".5", "1.", "1e3", "1.0000000001", "+1", " 1", "9223372036.854775808", "-9223372036.854775809", "99999999999", "1.5.5", "--1"} {
		if got, ok := nanoseconds(s); ok {
			t.Error(s, got)
		}
	}
}
