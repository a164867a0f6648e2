"""Run a program behind a link that delays each way by half a round trip.

python -m tests.bench.delayed RTT_MS PROGRAM [what ssh would get]
"""

import os
import queue
import subprocess
import sys
import threading
import time


def pump(source: int, target: int, delay: float) -> None:
    """Move bytes from one descriptor to the other, each `delay` seconds after it came."""
    waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(maxsize=4096)

    def deliver() -> None:
        while True:
            due, data = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(target, view) :]
            except OSError:
                return
            if not data:
                os.close(target)
                return

    threading.Thread(target=deliver, daemon=True).start()
    while True:
        data = os.read(source, 65536)
        waiting.put((time.monotonic() + delay, data))
        if not data:
            return


def main(rtt_ms: str, program: str, *_arguments: str) -> int:
    delay = float(rtt_ms) / 2000
    child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    arguments = (0, child.stdin.fileno(), delay)
    threading.Thread(target=pump, args=arguments, daemon=True).start()
    pump(child.stdout.fileno(), 1, delay)
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
