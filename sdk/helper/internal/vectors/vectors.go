// Package vectors loads the protocol's test vectors (sdk/testvectors). Only tests import it.
package vectors

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"sealos.io/devbox-helper/internal/msgpack"
)

// Load decodes one of the files; integers stay exact.
func Load(t testing.TB, name string, into any) {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../../testvectors", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		t.Fatal(err)
	}
}

// Hex decodes.
func Hex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Value turns the notation of sdk/testvectors/generate.py into a Value.
func Value(t testing.TB, j any) msgpack.Value {
	t.Helper()
	switch x := j.(type) {
	case bool:
		v := msgpack.Value{Kind: msgpack.Bool}
		if x {
			v.Int = 1
		}
		return v
	case json.Number:
		if n, err := strconv.ParseInt(x.String(), 10, 64); err == nil {
			return msgpack.Value{Kind: msgpack.Int, Int: n}
		}
		u, err := strconv.ParseUint(x.String(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return msgpack.Value{Kind: msgpack.Int, Int: int64(u), Big: true}
	case string:
		return msgpack.Value{Kind: msgpack.Str, Bytes: []byte(x)}
	case []any:
		v := msgpack.Value{Kind: msgpack.Array}
		for _, item := range x {
			v.Items = append(v.Items, Value(t, item))
		}
		return v
	case map[string]any:
		if text, ok := x["bin"]; ok {
			return msgpack.Value{Kind: msgpack.Bin, Bytes: Hex(t, text.(string))}
		}
		v := msgpack.Value{Kind: msgpack.Map}
		for _, pair := range x["map"].([]any) {
			for _, part := range pair.([]any) {
				v.Items = append(v.Items, Value(t, part))
			}
		}
		return v
	}
	return msgpack.Value{}
}
