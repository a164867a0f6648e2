"""Whether there is time for what is not run by default: DEVBOX_TEST_LONG=1."""

import os

LONG = os.environ.get("DEVBOX_TEST_LONG", "0") not in ("", "0")
