"""Run pytest on the files before `--collect` and only collect those after it: the main of a py_test of a folder."""

import sys

import pytest


def main(arguments: list[str]) -> int:
    split = arguments.index("--collect")
    run, collect = arguments[:split], arguments[split + 1 :]
    common = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not cluster and not end_to_end"]
    # A file may hold only tests that are left out here.
    well = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    status = pytest.main([*common, "--collect-only", "-qq", *collect]) if collect else pytest.ExitCode.OK
    if status in well and run:
        status = pytest.main([*common, *run])
    return 0 if status in well else int(status)


# The processes that a test starts import this module, too.
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
