"""Write the protocol's test vectors. Run without arguments; `--check` compares instead of writing.

The vectors must not come from either implementation, or both could agree on the same mistake:
msgpack_encoder.py is an encoder of their own, written from the specification, and file_vectors.py
and wire_vectors.py let `tarfile` and `zlib` of the standard library make what they make.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from file_vectors import path_vectors, tar_vectors, version_vectors
from pattern_vectors import pattern_vectors
from wire_vectors import frame_vectors, msgpack_vectors


def main() -> int:
    here = Path(__file__).parent
    vectors = {
        "msgpack": msgpack_vectors(),
        "frames": frame_vectors(),
        "paths": path_vectors(),
        "patterns": pattern_vectors(),
        "versions": version_vectors(),
        "apply_tar": tar_vectors(),
    }
    stale = 0
    for name, content in vectors.items():
        assert isinstance(content, dict)
        lines = []
        for key, rows in content.items():
            if isinstance(rows, list):
                body = ",\n".join("  " + json.dumps(row, ensure_ascii=True) for row in rows)
                lines.append(f'"{key}": [\n{body}\n]')
            else:
                lines.append(f'"{key}": {json.dumps(rows)}')
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        target = here / f"{name}.json"
        if sys.argv[1:] == ["--check"]:
            if target.read_text() != text:
                stale = 1
                print(f"{target} is not what {Path(__file__).name} writes", file=sys.stderr)
        else:
            target.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main())
