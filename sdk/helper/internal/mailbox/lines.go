package mailbox

import (
	"encoding/base64"
	"io"
)

// lineSize is how many bytes go into one line: 64 KiB of text.
const lineSize = 48 << 10

// Lines writes bytes as lines of base64, for where only text gets through, a line at a time.
type Lines struct {
	out  io.Writer
	text []byte
}

// NewLines returns a writer of lines to out.
func NewLines(out io.Writer) *Lines { return &Lines{out: out} }

// Write implements io.Writer.
func (l *Lines) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		piece := b[done:min(len(b), done+lineSize)]
		l.text = base64.StdEncoding.AppendEncode(l.text[:0], piece)
		l.text = append(l.text, '\n')
		if _, err := l.out.Write(l.text); err != nil {
			return done, err
		}
		done += len(piece)
	}
	return len(b), nil
}
