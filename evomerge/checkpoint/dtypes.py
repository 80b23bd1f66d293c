"""The dtypes of safetensors files: their words, sizes and torch counterparts.

A checkpoint names its dtypes by safetensors words (``BF16``); people write ``bfloat16``.
Nothing here loads torch before `torch_dtype` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from evomerge.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import torch


class Dtype(NamedTuple):
    """Bytes per entry, and the attribute of torch with this meaning."""

    size: int
    torch_name: str


DTYPES: Mapping[str, Dtype] = MappingProxyType(
    {
        "F64": Dtype(8, "float64"),
        "F32": Dtype(4, "float32"),
        "F16": Dtype(2, "float16"),
        "BF16": Dtype(2, "bfloat16"),
        "I64": Dtype(8, "int64"),
        "I32": Dtype(4, "int32"),
        "I16": Dtype(2, "int16"),
        "I8": Dtype(1, "int8"),
        "U64": Dtype(8, "uint64"),
        "U32": Dtype(4, "uint32"),
        "U16": Dtype(2, "uint16"),
        "U8": Dtype(1, "uint8"),
        "BOOL": Dtype(1, "bool"),
        "C64": Dtype(8, "complex64"),
        "F8_E4M3": Dtype(1, "float8_e4m3fn"),
        "F8_E4M3FNUZ": Dtype(1, "float8_e4m3fnuz"),
        "F8_E5M2": Dtype(1, "float8_e5m2"),
        "F8_E5M2FNUZ": Dtype(1, "float8_e5m2fnuz"),
        "F8_E8M0": Dtype(1, "float8_e8m0fnu"),
    }
)
"""All words that are read; entries packed below one byte (F4, F6) are not."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes that are merged; tensors of all others are the base's bytes."""

_SPOKEN = {
    "float64": "F64",
    "fp64": "F64",
    "double": "F64",
    "float32": "F32",
    "fp32": "F32",
    "float": "F32",
    "float16": "F16",
    "fp16": "F16",
    "half": "F16",
    "bfloat16": "BF16",
    "bf16": "BF16",
}


def parse_dtype(spoken: str) -> str:
    """The safetensors word of a float dtype as people write it: ``bfloat16`` or ``BF16``.

    Raises:
        UsageError: it is none of the dtypes that merged tensors can have.
    """
    word = spoken.strip().lower().removeprefix("torch.")
    if word.upper() in FLOATS:
        return word.upper()
    if word not in _SPOKEN:
        raise UsageError(
            f"{spoken!r} is not a dtype of merged tensors; "
            "allowed: bfloat16, float16, float32, float64"
        )
    return _SPOKEN[word]


def torch_dtype(word: str) -> torch.dtype:
    """The torch dtype of a safetensors word.

    Raises:
        CheckpointError: the word is unknown, or to the installed torch.
    """
    import torch

    found = getattr(torch, DTYPES[word].torch_name, None) if word in DTYPES else None
    if not isinstance(found, torch.dtype):
        raise CheckpointError(f"dtype {word} is unknown to torch {torch.__version__}")
    return found


def dtype_word(dtype: torch.dtype) -> str:
    """The safetensors word of a torch dtype; the inverse of `torch_dtype`.

    Raises:
        CheckpointError: safetensors files cannot hold it.
    """
    name = str(dtype).removeprefix("torch.")
    for word, (_, torch_name) in DTYPES.items():
        if torch_name == name:
            return word
    raise CheckpointError(f"dtype {name} cannot be stored in a safetensors file")
