"""What a command imports of the room."""

import subprocess
import sys


def test_what_commands_import_loads_no_tensorflow() -> None:
    modules = ("checkpoints", "config", "gate", "handover", "partial", "preemption", "run", "streaming")
    code = (
        f"import sys; from tutelage.trainers import {', '.join(modules)}; print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
