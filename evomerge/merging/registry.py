"""Merge methods by name; ``lines:NAME`` is any of them, scaled by depth."""

from __future__ import annotations

from functools import cache

from evomerge.merging.lines import PREFIX, Lines
from evomerge.merging.method import MergeMethod
from evomerge.registry import Registry

METHODS = Registry(
    "method",
    {
        "sparse_signed": "evomerge.merging.sums:SPARSE_SIGNED",
        "sparse_split": "evomerge.merging.split:SPARSE_SPLIT",
        "task_arithmetic": "evomerge.merging.sums:TASK_ARITHMETIC",
        "linear": "evomerge.merging.sums:LINEAR",
        "weighted_sum": "evomerge.merging.tensors:WEIGHTED_SUM",
        "ties": "evomerge.merging.ties:TIES",
        "ties_sum": "evomerge.merging.ties:TIES_SUM",
        "ties_model": "evomerge.merging.ties:TIES_MODEL",
        "dare_linear": "evomerge.merging.dare:DARE_LINEAR",
        "dare_ties": "evomerge.merging.dare:DARE_TIES",
        "dare_linear_l1": "evomerge.merging.dare:DARE_LINEAR_L1",
        "dare_ties_l1": "evomerge.merging.dare:DARE_TIES_L1",
        "breadcrumbs": "evomerge.merging.breadcrumbs:BREADCRUMBS",
        "breadcrumbs_tensor": "evomerge.merging.breadcrumbs:BREADCRUMBS_TENSOR",
        "breadcrumbs_ties": "evomerge.merging.breadcrumbs:BREADCRUMBS_TIES",
        "della": "evomerge.merging.della:DELLA",
        "della_linear": "evomerge.merging.della:DELLA_LINEAR",
        "della_l1": "evomerge.merging.della:DELLA_L1",
        "della_linear_l1": "evomerge.merging.della:DELLA_LINEAR_L1",
        "sce": "evomerge.merging.sce:SCE",
        "pcb": "evomerge.merging.pcb:PCB",
        "pcb_model": "evomerge.merging.pcb_model:PCB_MODEL",
        "compeft": "evomerge.merging.compeft:COMPEFT",
        "star": "evomerge.merging.star:STAR",
        "evo_merging": "evomerge.merging.evo:EVO_MERGING",
        "evo_merging_delta": "evomerge.merging.evo:EVO_MERGING_DELTA",
        "selma": "evomerge.merging.sums:SELMA",
        "slerp": "evomerge.merging.directions:SLERP",
        "nuslerp": "evomerge.merging.directions:NUSLERP",
        "multislerp": "evomerge.merging.directions:MULTISLERP",
        "karcher": "evomerge.merging.directions:KARCHER",
        "model_stock": "evomerge.merging.directions:MODEL_STOCK",
        "interpolation": "evomerge.merging.pairs:INTERPOLATION",
        "nearswap": "evomerge.merging.pairs:NEARSWAP",
        "transfer": "evomerge.merging.pairs:TRANSFER",
    },
)


@cache
def method_named(name: str) -> MergeMethod:
    """The merge method of that name.

    Raises:
        PluginError: if nothing has this name.
    """
    found: MergeMethod = METHODS.load(name.removeprefix(PREFIX))
    return Lines(found) if name.startswith(PREFIX) else found
