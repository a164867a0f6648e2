"""One of several processes that work in the same directory at once.

    python -m tests.support.busy TOP WORKER STEPS

Each worker owns the names that begin with its number and keeps a model of them, which it checks all
the time and prints in the end as JSON; names that begin with `common` belong to all, and only the
kinds of errors there are checked.
"""

import contextlib
import errno
import json
import os
import random
import sys

EXPECTED = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL}


def own(top: str, worker: str, random_: random.Random, model: dict[str, str], step: int) -> None:
    choice = random_.random()
    if choice < 0.5 or not model:
        name, content = f"{worker}-{random_.randrange(30)}", f"{worker} {step} " * 40
        with open(os.path.join(top, name), "w") as file:
            file.write(content)
        model[name] = content
        return
    name = random_.choice(sorted(model))
    path = os.path.join(top, name)
    if choice < 0.65:
        os.unlink(path)
        del model[name]
    elif choice < 0.8:
        target = f"{worker}-{random_.randrange(30)}"
        os.rename(path, os.path.join(top, target))
        model[target] = model.pop(name)
    elif choice < 0.9:
        with open(path, "a") as file:
            file.write("more")
        model[name] += "more"
    else:
        with open(path) as file:
            assert file.read() == model[name], name
        mine = sorted(one for one in os.listdir(top) if one.startswith(f"{worker}-"))
        assert mine == sorted(model), (mine, sorted(model))


def common(top: str, random_: random.Random) -> None:
    one, two = (os.path.join(top, f"common{random_.randrange(6)}") for _ in range(2))
    calls = [
        lambda: os.close(os.open(one, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
        lambda: os.unlink(one),
        lambda: os.mkdir(one),
        lambda: os.rmdir(one),
        lambda: os.rename(one, two),
        lambda: os.link(one, two),
        lambda: os.lstat(one),
    ]
    try:
        random_.choice(calls)()
    except OSError as error:
        # EPERM is what link says of a directory.
        if error.errno not in EXPECTED | {errno.EPERM}:
            raise


def main(top: str, worker: str, steps: str) -> None:
    random_ = random.Random(int(worker))
    model: dict[str, str] = {}
    for step in range(int(steps)):
        own(top, worker, random_, model, step)
        with contextlib.suppress(FileNotFoundError):
            common(top, random_)
    print(json.dumps(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
