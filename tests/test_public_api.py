"""The public names of each room. A change of this list is a change for every user: say it in CHANGELOG.md."""

import importlib
import inspect
import subprocess
import sys

import pytest

PUBLIC = {
    "pipeline": [
        "Check",
        "DataFile",
        "Downsampling",
        "Feature",
        "Files",
        "Growth",
        "History",
        "JoinedLabels",
        "KuaiRand",
        "LabelPartition",
        "LabelRequest",
        "Lake",
        "MovieLens",
        "Negatives",
        "QualityConfig",
        "RawFile",
        "Schema",
        "Side",
        "SoftLabelStore",
        "Source",
        "Synthetic",
        "Table",
        "Task",
        "Unit",
        "UserError",
        "Verdict",
        "labels_before_update",
        "labels_by_snapshot",
    ],
    "models": [
        "Backbone",
        "Batch",
        "CrossEntropy",
        "DCNv2",
        "DLRM",
        "Distillation",
        "InputSpec",
        "Inputs",
        "Listwise",
        "LogitMSE",
        "MLP",
        "MMoE",
        "ModelConfig",
        "Quality",
        "Ranker",
        "SoftLoss",
        "SquaredError",
        "TargetAttention",
        "TaskKind",
        "ZilnKL",
        "distil",
        "fingerprint",
        "masked_mean",
    ],
    "trainers": [
        "Accept",
        "Checkpoints",
        "Day",
        "DayLoop",
        "Feed",
        "GateConfig",
        "Preempted",
        "Role",
        "Run",
        "Sampling",
        "State",
        "Student",
        "StudentConfig",
        "SuccessorConfig",
        "Teacher",
        "TeacherConfig",
        "TrainResult",
        "Trainer",
        "TrainingConfig",
        "day_metrics",
        "train",
        "train_student",
        "train_successor",
        "train_teacher",
    ],
    "export": [
        "Exported",
        "Served",
        "ServingConfig",
        "SkewConfig",
        "Version",
        "Versions",
        "export_student",
        "export_teacher",
        "mirror",
        "models_config",
        "read_requests",
    ],
    "launch": [
        "AlertConfig",
        "COMMANDS",
        "Experiment",
        "KeepConfig",
        "Session",
        "StudyConfig",
        "load",
        "open_workdir",
    ],
}


@pytest.mark.parametrize("room", PUBLIC)
def test_the_public_names_are_those_listed_here(room: str) -> None:
    module = importlib.import_module(f"tutelage.{room}")
    assert sorted(getattr(module, "__all__", [])) == PUBLIC[room]
    assert set(PUBLIC[room]) <= set(dir(module))


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in PUBLIC for name in PUBLIC[room]])
def test_a_public_name_resolves_and_a_class_or_function_has_its_own_docstring(room: str, name: str) -> None:
    found = getattr(importlib.import_module(f"tutelage.{room}"), name)
    if inspect.isclass(found) or inspect.isroutine(found):
        assert found.__module__.startswith(f"tutelage.{room}.")
        # A dataclass without a docstring has its signature for one.
        assert (found.__doc__ or "").strip()
        assert not found.__doc__.startswith(f"{name}(")


@pytest.mark.parametrize("room", PUBLIC)
def test_an_unknown_name_is_refused_by_name(room: str) -> None:
    module = importlib.import_module(f"tutelage.{room}")
    with pytest.raises(AttributeError, match=f"module 'tutelage.{room}' has no attribute 'nonesuch'"):
        _ = module.nonesuch


def test_importing_a_room_loads_neither_tensorflow_nor_beam() -> None:
    code = "\n".join(f"import tutelage.{room}" for room in PUBLIC)
    code += "\nimport sys; print(*sys.modules.keys() & {'tensorflow', 'apache_beam', 'tf_keras', 'keras'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
