"""Check that the newest entry of CHANGELOG.md is about the version that the package says it is."""

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the check; print what is wrong."""
    version: str = runpy.run_path(str(ROOT / "sdk/sealos_devbox/_version.py"))["__version__"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if headings[:1] != [version]:
        newest = headings[0] if headings else "nothing"
        print(f"_version.py says {version}, the newest entry of CHANGELOG.md is {newest}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
