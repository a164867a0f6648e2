package msgpack_test

import (
	"bytes"
	"encoding/hex"
	"math/rand"
	"testing"

	. "sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/vectors"
)

type vectorFile struct {
	Values, Accepted []struct {
		Value any
		Hex   string
	}
	Refused []struct{ Hex, Why string }
}

func load(t *testing.T) (v vectorFile) {
	t.Helper()
	vectors.Load(t, "msgpack", &v)
	return v
}

func TestVectors(t *testing.T) {
	v := load(t)
	for _, c := range v.Values {
		want := vectors.Value(t, c.Value)
		if got := hex.EncodeToString(want.Append(nil)); got != c.Hex {
			t.Errorf("%v: encoded as %.80s, want %.80s", c.Value, got, c.Hex)
		}
	}
	for _, c := range append(v.Values, v.Accepted...) {
		raw, _ := hex.DecodeString(c.Hex)
		got, err := Decode(raw)
		if err != nil {
			t.Errorf("%.80s: %v", c.Hex, err)
			continue
		}
		if !bytes.Equal(got.Append(nil), vectors.Value(t, c.Value).Append(nil)) {
			t.Errorf("%.80s: decoded as %v", c.Hex, got)
		}
		for cut := range raw {
			if _, err := Decode(raw[:cut]); err == nil {
				t.Errorf("%.80s: cut at %d was accepted", c.Hex, cut)
			}
		}
		if _, err := Decode(append(raw[:len(raw):len(raw)], 0)); err != ErrTrailing {
			t.Errorf("%.80s: a trailing byte: %v", c.Hex, err)
		}
	}
	for _, c := range v.Refused {
		raw, _ := hex.DecodeString(c.Hex)
		if got, err := Decode(raw); err == nil {
			t.Errorf("%s: %.80s accepted as %v", c.Why, c.Hex, got)
		}
	}
}

// TestGarbage decodes random and mutated bytes: any error will do, a panic or a huge allocation will not.
func TestGarbage(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	var seeds [][]byte
	for _, c := range load(t).Values {
		raw, _ := hex.DecodeString(c.Hex)
		seeds = append(seeds, raw)
	}
	for i := 0; i < 200000; i++ {
		b := append([]byte(nil), seeds[random.Intn(len(seeds))]...)
		for n := random.Intn(4); n >= 0; n-- {
			b[random.Intn(len(b))] = byte(random.Intn(256))
		}
		if v, err := Decode(b); err == nil {
			if again, err := Decode(v.Append(nil)); err != nil || !bytes.Equal(again.Append(nil), v.Append(nil)) {
				t.Fatalf("%x does not survive a round trip", b)
			}
		}
	}
}

func TestAbsentElements(t *testing.T) {
	v, err := Decode([]byte{0x91, 0x05})
	if err != nil || v.At(0).Int != 5 || !v.At(1).IsNil() || !v.Get("a").IsNil() || !v.At(0).At(3).IsNil() {
		t.Fatal(v, err)
	}
	r := Reader{B: []byte{0x92, 1, 2, 0xc0}}
	n, err := r.Array()
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	if _, err := (&Reader{B: []byte{1}}).Array(); err != ErrKind {
		t.Fatal(err)
	}
}
