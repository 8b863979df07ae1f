"""The main of every py_test: runs one test file with pytest."""

import sys

import pytest


def main() -> int:
    status = pytest.main(["-q", "-p", "no:cacheprovider", "-m", "not slow and not end_to_end", *sys.argv[1:]])
    # A file that holds only slow tests has nothing to say here.
    return 0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else int(status)


# Processes that a test starts import this module, too.
if __name__ == "__main__":
    sys.exit(main())
