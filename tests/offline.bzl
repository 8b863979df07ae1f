"""Let Debian's bazel-bootstrap (4.2.3) test Python without a network."""

def _stub(ctx):
    for path, text in ctx.attr.files.items():
        ctx.file(path, text)

_stub_repository = repository_rule(_stub, attrs = {"files": attr.string_dict()})

def _native(rules):
    return "\n".join(["%s = native.%s" % (rule, rule) for rule in rules])

def offline_stubs():
    """Replace three repositories that Bazel loads, and that py_test never uses, by empty ones.

    Only Debian's build has an empty version. Any other build downloads the real repositories.
    """
    if native.bazel_version:
        return
    _stub_repository(name = "rules_cc", files = {
        "cc/BUILD": "",
        "cc/defs.bzl": _native(["cc_binary", "cc_library", "cc_test", "cc_toolchain", "cc_toolchain_suite"]),
    })
    _stub_repository(name = "rules_java", files = {
        "java/BUILD": "",
        "java/defs.bzl": _native(["java_binary", "java_import", "java_runtime", "java_toolchain"]),
    })
    _stub_repository(name = "remote_coverage_tools", files = {
        "BUILD": "filegroup(name = 'coverage_report_generator', visibility = ['//visibility:public'])",
    })
