"""pytest under Bazel."""

_RUNNER = "//tests:run_pytest.py"

def pytest_tests(deps, data = []):
    """A py_test for each test_*.py in this folder and in those below it that have no BUILD file.

    Other Python files beside the tests are helpers that each of them may import.

    Args:
      deps: the rooms that these tests import; a module outside them is not found.
      data: files that the tests read.
    """
    files = native.glob(["**/*.py"], exclude = ["run_pytest.py"])
    tests = [file for file in files if file.split("/")[-1].startswith("test_")]
    for file in tests:
        native.py_test(
            name = file[:-len(".py")],
            srcs = [file, _RUNNER] + [helper for helper in files if helper not in tests],
            main = _RUNNER,
            args = ["$(rootpath %s)" % file],
            deps = deps + ["//tests:helpers"],
            # The installed libraries are no inputs of Bazel's: a change of their versions runs the tests again.
            data = data + ["//:constraints.txt", "//:pyproject.toml"],
        )
