"""`python -m tests.diagnostics.release [--write] [--processes N]`."""

from tests.diagnostics.release.report import main

if __name__ == "__main__":  # processes that it starts import it again
    main()
