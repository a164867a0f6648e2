"""`python -m devboxfs` is the command `devboxfs`; with `--daemon FD` it is the daemon it starts."""

import sys

if __name__ == "__main__":
    # Before the command line's own imports, of which the daemon needs nothing.
    if sys.argv[1:2] == ["--daemon"]:
        from devboxfs.daemon import background_main

        background_main(int(sys.argv[2]))
    from devboxfs.cli import main

    main()
