"""Where data is looked up: under the data root first, then as the path stands."""

from __future__ import annotations

from pathlib import Path

from src.errors import UserError


def candidates(root: str, path: str) -> tuple[Path, Path]:
    """`path` under `root`, and as it stands (absolute, `~` expanded).

    A leading '/' does not stop the look under `root`: configurations of the original join the
    two that way.
    """
    try:
        return Path(root) / path.lstrip("/"), Path(path).expanduser().absolute()
    except RuntimeError as error:  # ~ of an unknown user
        raise UserError(f"{path}: {error}") from None


def resolve_data_path(root: str, path: str, what: str) -> Path:
    """An existing file or folder, the first of its `candidates`.

    Args:
        root: train_data_dir.
        path: a value of the configuration.
        what: its key, for the message.

    Raises:
        UserError: it is in neither place; names both.
    """
    places = candidates(root, path)
    for place in places:
        if path and place.exists():
            return place
    raise UserError(
        f"{what}: found neither {places[0]} nor {places[1]}; put the data there, or set {what} "
        "or train_data_dir"
    )
