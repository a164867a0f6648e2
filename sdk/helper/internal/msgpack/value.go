package msgpack

// Kind is the type of a Value.
type Kind byte

// The kinds. The zero Value is Nil, which is also what an absent trailing element reads as.
const (
	Nil Kind = iota
	Bool
	Int
	Bin
	Str
	Array
	Map
)

// Value is a decoded value. Its bytes alias the decoder's input.
type Value struct {
	Kind  Kind
	Big   bool // an integer above the range of int64; Int holds its bits
	Int   int64
	Bytes []byte
	Items []Value // of an array; of a map: key, value, key, value
}

// At returns an array's element, or nil where the array is shorter.
func (v Value) At(i int) Value {
	if v.Kind == Array && i < len(v.Items) {
		return v.Items[i]
	}
	return Value{}
}

// Get returns a map's entry, or nil.
func (v Value) Get(key string) Value {
	if v.Kind == Map {
		for i := 0; i+1 < len(v.Items); i += 2 {
			if string(v.Items[i].Bytes) == key {
				return v.Items[i+1]
			}
		}
	}
	return Value{}
}

// IsNil tells whether the value is nil or absent.
func (v Value) IsNil() bool { return v.Kind == Nil }

// Append encodes the value.
func (v Value) Append(b []byte) []byte {
	switch v.Kind {
	case Bool:
		return AppendBool(b, v.Int != 0)
	case Int:
		if v.Big {
			return AppendUint(b, uint64(v.Int))
		}
		return AppendInt(b, v.Int)
	case Bin:
		return AppendBin(b, v.Bytes)
	case Str:
		return AppendStr(b, string(v.Bytes))
	case Array:
		b = AppendArray(b, len(v.Items))
	case Map:
		b = AppendMap(b, len(v.Items)/2)
	default:
		return AppendNil(b)
	}
	for _, item := range v.Items {
		b = item.Append(b)
	}
	return b
}
