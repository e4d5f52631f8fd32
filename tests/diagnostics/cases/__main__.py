"""`python -m tests.diagnostics.cases [--group NAME] [--only TEXT] [--folder DIR [--answers FILE]] [--write NAME]`."""

from tests.diagnostics.cases.report import main

if __name__ == "__main__":
    main()
