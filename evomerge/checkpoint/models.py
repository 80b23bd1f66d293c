"""A model, whatever it is stored as: a whole checkpoint, or an adapter to the base."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from evomerge.checkpoint.adapter import Adapter, is_adapter
from evomerge.checkpoint.checkpoint import Checkpoint

Model = Checkpoint | Adapter


def open_model(path: Path | str) -> Model:
    """Open a folder or a file; what opens it closes it.

    Raises:
        CheckpointError: it is not there, damaged, hostile, or in a format that is not read.
    """
    return Adapter.open(path) if is_adapter(Path(path)) else Checkpoint.open(path)


def opened_in(stack: ExitStack, path: Path | str) -> Model:
    """`open_model`, closed when the stack ends."""
    model = open_model(path)
    stack.callback(model.close)
    return model


def own_tensors(model: Model) -> Checkpoint:
    """The tensors that a model's own files hold: an adapter's factors, not what they make."""
    return model.stored if isinstance(model, Adapter) else model
