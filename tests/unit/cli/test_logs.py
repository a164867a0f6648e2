import os
import stat
import subprocess
import sys

PROGRAM = """
import logging, os, sys
from pathlib import Path
from devboxfs import logs

logs.MAX_SIZE = 2000
logs.configure(file=Path(sys.argv[1]), stream=None, debug=False)
log = logging.getLogger("devboxfs.test")
for number in range(100):
    log.info("record %d", number)
log.debug("a detail")
logging.getLogger("httpx").info("a header")
os.write(2, b"libfuse speaks\\n")
raise ZeroDivisionError
"""


def test_the_log_is_private_bounded_and_takes_standard_error_along(tmp_path):
    path = tmp_path / "deep" / "log"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, check=False
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert sorted(os.listdir(path.parent)) == ["log", "log.1", "log.2"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.stat().st_size < 4000
    text = path.read_text()
    assert "INFO devboxfs.test: record 99" in text
    assert "libfuse speaks" in text
    assert "ZeroDivisionError" in text
    assert "a detail" not in text
    assert "a header" not in text
