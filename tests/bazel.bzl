"""Libraries and tests under Bazel.

`make test` has run every test by the time that these run. They check what it cannot see: that each target declares
all that it needs. So every import of every target is resolved, every test file is collected, and only those tests
run that are fast or read declared data files.
"""

_IMPORTS = "//tests:check_imports.py"
_RUNNER = "//tests:run_pytest.py"

def library(name, srcs, deps = [], data = [], visibility = []):
    """A py_library, and a test that `deps` holds all that it imports.

    Args:
      name: of the library; its test is `name`_imports.
      srcs: Python files.
      deps: the libraries that these import.
      data: the files that these read.
      visibility: who may depend on it; tests always may.
    """
    native.py_library(
        name = name,
        srcs = srcs,
        deps = deps,
        data = data,
        visibility = visibility + ["//tests:__subpackages__"],
    )
    native.py_test(
        name = name + "_imports",
        size = "small",
        srcs = [_IMPORTS],
        main = _IMPORTS,
        deps = [":" + name],
    )

def pytest_tests(name, deps, data = [], run = []):
    """A py_test of all test files in this folder and in those below it that have no BUILD file.

    Other Python files beside the tests are helpers.

    Args:
      name: of the test; the check of its imports is `name`_imports.
      deps: the rooms that these tests import; a module outside them is not found.
      data: files that the tests read.
      run: glob patterns of the files whose tests run; the tests of others are collected only.
    """
    files = native.glob(["**/*.py"], exclude = ["run_pytest.py", "check_imports.py"])
    tests = [file for file in files if file.split("/")[-1].startswith("test_")]
    runs = native.glob(run) if run else []
    native.py_library(
        name = name + "_files",
        testonly = True,
        srcs = files,
        deps = deps + ["//tests:helpers"],
    )
    native.py_test(
        name = name,
        srcs = [_RUNNER],
        main = _RUNNER,
        args = ["$(rootpath %s)" % file for file in runs] +
               ["--collect"] + ["$(rootpath %s)" % file for file in tests if file not in runs],
        deps = [":" + name + "_files"],
        # The installed libraries are not inputs of Bazel's: a change of their versions runs the tests again.
        data = data + tests + ["//:constraints.txt", "//:pyproject.toml"],
    )
    native.py_test(
        name = name + "_imports",
        size = "small",
        testonly = True,
        srcs = [_IMPORTS],
        main = _IMPORTS,
        deps = [":" + name + "_files"],
    )
