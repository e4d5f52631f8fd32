"""`python -m tests.diagnostics.cases [--group GROUP] [--only TEXT] [--folder FOLDER [--answers FILE]] [--write NAME]`."""

from tests.diagnostics.cases.report import main

if __name__ == "__main__":
    main()
