// Package prune has the patterns by which a client says what a snapshot and a watch leave out (sdk/PROTOCOL.md
// section 5.1).
package prune

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// ErrPattern: no name can match it, or every one does.
var ErrPattern = errors.New("no pattern of names")

// pattern is one that is no plain name.
type pattern struct {
	parts    []part
	anchored bool // of a whole path; else of a name
}

// part stands for one name of a path, or, deep, for any number of them.
type part struct {
	deep  bool
	items []item
}

// item is `*`, or one character: that, or any, or one of a class.
type item struct {
	kind    itemKind
	text    string // literal: its bytes
	negated bool
	ranges  [][2]byte
}

type itemKind uint8

const (
	literal itemKind = iota
	anyOne
	anyRun
	class
)

const wild = `*?[\`

// compile returns a plain name, or a pattern.
func compile(text string) (plain string, p *pattern, err error) {
	body := strings.Trim(text, "/")
	parts := strings.Split(body, "/")
	if body == "" || strings.IndexByte(text, 0) >= 0 {
		return "", nil, ErrPattern
	}
	everything := true
	for _, one := range parts {
		if one == "" || one == "." || one == ".." {
			return "", nil, ErrPattern
		}
		everything = everything && one == "**"
	}
	if everything {
		return "", nil, ErrPattern
	}
	anchored := strings.HasPrefix(text, "/") || len(parts) > 1
	if !strings.HasPrefix(text, "/") {
		// `**/name` is anywhere, which is what a pattern without a slash says.
		first := 0
		for parts[first] == "**" {
			first++
		}
		if first == len(parts)-1 {
			parts, anchored = parts[first:], false
		}
	}
	if !anchored && !strings.ContainsAny(parts[0], wild) {
		return parts[0], nil, nil
	}
	p = &pattern{anchored: anchored}
	for i, one := range parts {
		compiled := part{deep: one == "**"}
		if compiled.deep && i > 0 && parts[i-1] == "**" {
			continue
		}
		if !compiled.deep {
			if compiled.items, err = items(one); err != nil {
				return "", nil, err
			}
		}
		p.parts = append(p.parts, compiled)
	}
	return "", p, nil
}

func items(text string) ([]item, error) {
	var all []item
	for text != "" {
		size := sizeOf(text)
		switch text[0] {
		case '*':
			if n := len(all); n == 0 || all[n-1].kind != anyRun {
				all = append(all, item{kind: anyRun})
			}
		case '?':
			all = append(all, item{kind: anyOne})
		case '[':
			one, length, err := parseClass(text)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
			size = length
		case '\\':
			if text = text[1:]; text == "" {
				return nil, ErrPattern
			}
			size = sizeOf(text)
			all = append(all, item{text: text[:size]})
		default:
			all = append(all, item{text: text[:size]})
		}
		text = text[size:]
	}
	return all, nil
}

// parseClass parses `[...]`; a `]` that comes first is one of its members. It also returns the length of the text.
func parseClass(text string) (item, int, error) {
	one := item{kind: class}
	at := 1
	if at < len(text) && (text[at] == '!' || text[at] == '^') {
		one.negated = true
		at++
	}
	end := -1
	if at < len(text) {
		end = strings.IndexByte(text[at+1:], ']')
	}
	if end < 0 {
		return one, 0, ErrPattern
	}
	end += at + 1
	for inside := text[at:end]; inside != ""; {
		low, high, used := inside[0], inside[0], 1
		if len(inside) > 2 && inside[1] == '-' {
			high, used = inside[2], 3
		}
		if low >= utf8.RuneSelf || high >= utf8.RuneSelf || low > high {
			return one, 0, ErrPattern
		}
		one.ranges = append(one.ranges, [2]byte{low, high})
		inside = inside[used:]
	}
	return one, end + 1, nil
}

// sizeOf the first character: of UTF-8, or one byte that is none.
func sizeOf(text string) int {
	_, n := utf8.DecodeRuneInString(text)
	return n
}

// one matches a single character at the beginning of name, which is not empty; the number of bytes, 0 for none.
func (i *item) one(name string) int {
	n := sizeOf(name)
	switch i.kind {
	case literal:
		if name[:n] != i.text {
			return 0
		}
	case class:
		found := false
		for _, r := range i.ranges {
			found = found || n == 1 && r[0] <= name[0] && name[0] <= r[1]
		}
		if found == i.negated {
			return 0
		}
	}
	return n
}

// name matches a whole name, in time proportional to the product of both lengths.
func name(items []item, name string) bool {
	at, back, from := 0, -1, ""
	for name != "" {
		n := 0
		if at < len(items) {
			n = items[at].one(name)
		}
		switch {
		case at < len(items) && items[at].kind == anyRun:
			back, from = at, name
			at++
		case n > 0:
			at, name = at+1, name[n:]
		case back < 0:
			return false
		default:
			from = from[sizeOf(from):] // the last `*` takes one character more
			at, name = back+1, from
		}
	}
	for at < len(items) && items[at].kind == anyRun {
		at++
	}
	return at == len(items)
}

// path matches the names of a path.
func path(parts []part, names []string) bool {
	if last := len(parts) - 1; parts[last].deep {
		// At the end it is at least one name.
		for n := 1; n < len(names); n++ {
			if path(parts[:last], names[:n]) {
				return true
			}
		}
		return false
	}
	at, now, back, from := 0, 0, -1, 0
	for now < len(names) {
		switch {
		case at < len(parts) && parts[at].deep:
			back, from = at, now
			at++
		case at < len(parts) && name(parts[at].items, names[now]):
			at, now = at+1, now+1
		case back < 0:
			return false
		default:
			from++ // the last `**` takes one name more
			at, now = back+1, from
		}
	}
	return at == len(parts)
}
