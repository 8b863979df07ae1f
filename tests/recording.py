"""What is brought to the disk and renamed, in order."""

import os
from pathlib import Path

import pytest


def record_disk(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """Return a list to which each fsync and each rename below `root` is added from now on, by relative paths."""
    done: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def synced(descriptor: int) -> None:
        done.append(f"fsync {os.path.relpath(os.readlink(f'/proc/self/fd/{descriptor}'), root)}")
        fsync(descriptor)

    def moved(source: Path, target: Path) -> None:
        done.append(f"rename {os.path.relpath(source, root)} {os.path.relpath(target, root)}")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", lambda source, target: (moved(source, target), rename(source, target)))
    monkeypatch.setattr(
        os, "replace", lambda source, target: (moved(source, target), replace(source, target))
    )
    return done
