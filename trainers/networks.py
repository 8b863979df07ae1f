"""What a user's network is made of, recorded beside its checkpoints: one that has changed cannot read them."""

from collections.abc import Mapping, Sequence

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import json_bytes, json_object, read_json
from tutelage.pipeline.io.store import FILES
from tutelage.trainers.checkpoints import Checkpoints

_FILE = "network.json"


def record(checkpoints: Checkpoints, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write the shapes of a network's variables by their paths (`Ranker.network`); none are not recorded."""
    if shapes:
        FILES.put_if_absent(checkpoints.folder / _FILE, json_bytes(shapes))


def check(checkpoints: Checkpoints, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise UserError where the checkpoints are of a network whose variables have other paths or shapes."""
    path = checkpoints.folder / _FILE
    if not path.exists():
        return
    recorded = read_json(
        path,
        json_object,
        mend="restore it from a backup, or remove it if the network's function is unchanged: it is written anew",
    )
    changes = [
        f"{name} was {recorded.get(name, 'not there')} and is {shapes.get(name, 'not there')}"
        for name in dict.fromkeys([*recorded, *shapes])
        if recorded.get(name) != shapes.get(name)
    ]
    if changes:
        raise UserError(
            f"the checkpoints in {checkpoints.folder} are of a network with other variables: "
            f"{'; '.join(changes[:3])}; give its function back as it was, or train a model of another name or workdir"
        )
