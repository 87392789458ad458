"""Changing a network that is built: parts of it replaced by others."""

from __future__ import annotations

from mindspore import nn


def replace_part(cell: nn.Cell, name: str, part: nn.Cell) -> None:
    """Put a cell without parameters in the place of `cell`'s direct part `name`."""
    if isinstance(cell, nn.SequentialCell):
        cell[list(cell.name_cells()).index(name)] = part  # it keeps a list of its parts as well
    else:
        setattr(cell, name, part)


def count(network: nn.Cell, kind: type[nn.Cell]) -> int:
    """How many cells of a kind a network has, at any depth."""
    return sum(isinstance(cell, kind) for _, cell in network.cells_and_names())
