"""Merges the tensors of open checkpoints: one at a time, or all of them onto disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import parse_dtype, torch_dtype
from evomerge.checkpoint.layout import SHARD_SIZE
from evomerge.checkpoint.memory import Entries
from evomerge.checkpoint.models import Model
from evomerge.checkpoint.names import quoted, shown
from evomerge.checkpoint.writer import CheckpointWriter
from evomerge.errors import CheckpointError, UsageError
from evomerge.merging.compatibility import merges, problems, stored_twice
from evomerge.merging.entries import (
    Inputs,
    TensorMerge,
    bound,
    copied,
    may_differ,
    merged,
    stretches,
)
from evomerge.merging.finite import non_finite
from evomerge.merging.fused import fits, formula, formulated
from evomerge.merging.index import MagnitudeIndex, VectorKey
from evomerge.merging.joining import check_joinable, compiled, joined, summed
from evomerge.merging.low_rank import sum_of
from evomerge.merging.magnitudes import MagnitudeTable
from evomerge.merging.method import Chunk, Settings, check_count, check_settings, surveys
from evomerge.merging.plan import Mask, MergePlan, Vocabulary
from evomerge.merging.pool import Pool
from evomerge.merging.registry import method_named
from evomerge.merging.scratch import Scratch, Scratches
from evomerge.merging.tally import Each, magnitude_tables, product_tables
from evomerge.merging.threads import allowed_threads, one_thread_each, spread
from evomerge.merging.to_disk import StreamedMerge
from evomerge.merging.vocabulary import refitted

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merging.entries import Piece

WORTH_COMPILED = 2**22
"""Entries of a base for which loading the compiled loops, about a second, is worth while."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Written(NamedTuple):
    """What is known of a checkpoint that was just written.

    Attributes:
        non_finite: how many entries are NaN or infinite, by tensor, where there are any.
        digests: of shards by their name, as `CheckpointWriter.digests`.
    """

    non_finite: Mapping[str, int]
    digests: Mapping[str, str]


class Merger:
    """A base and its models, checked to fit each other.

    Memory does not grow with the models: a few blocks or chunks, tables of magnitudes up to
    `evomerge.merging.index.MEMORY_BYTES`, factors of adapters up to `bound_adapter.FACTOR_BYTES`;
    for methods that need whole tensors a few times the largest one, per thread.
    Threads: as many as torch may use in the thread that calls.

    Attributes:
        base: open; whoever opened it closes it.
        models: by name; checkpoints, open likewise, or adapters bound to the base.
        compiled: whether the compiled loops may be used, which give the same bits as torch; by
            default, where the base has more than `WORTH_COMPILED` entries.
        index: the tables of magnitudes; given as the folder where they outlive the process.
        vocabulary: what becomes of rows where vocabularies differ.
        follows: a head that is stored although it is tied, to the embeddings that it is.

    Raises:
        CheckpointError: a model does not fit the base; all problems are named.
    """

    def __init__(
        self,
        base: Checkpoint,
        models: Mapping[str, Model],
        *,
        compiled: bool | None = None,
        index: Path | None = None,
        vocabulary: Vocabulary = "refuse",
    ) -> None:
        models = refitted(base, models, vocabulary)
        errors = [p.text for p in problems(base, models) if p.severity == "error"]
        if errors:
            raise CheckpointError("; ".join(errors), place=shown(base.path))
        self.base = base
        entries = sum(entry.count for entry in base.tensors.values())
        self.compiled = entries > WORTH_COMPILED if compiled is None else compiled
        self.models = bound(base, models, compiled=self.compiled)
        self.follows = stored_twice(base, models)
        self.index = MagnitudeIndex(index)
        self._pool = Pool(
            [n for n, e in base.tensors.items() if merges(e) and n not in self.follows]
        )
        self.scratches = Scratches()

    def tensor(
        self,
        name: str,
        settings: Settings | None,
        method: str,
        *,
        dtype: str | None = None,
        mask: Mask = "smooth",
    ) -> Tensor:
        """One merged tensor in its shape, on the CPU.

        Args:
            name: of the tensor.
            settings: its numbers, per-model ones in the order of `models`; None for the base's.
            method: name of the merge method.
            dtype: of the result, as people or safetensors write it; None for the base's own.
            mask: of methods with a density rule.

        Raises:
            CheckpointError: there is no such tensor, or a file changed.
            UsageError: the settings are not the method's.
        """
        import torch

        tensors = {} if settings is None else {self.follows.get(name, name): settings}
        plan = MergePlan(method, tuple(self.models), tensors, mask=mask)
        self.check(plan)
        word = self.word(name, dtype)
        entry = self.base.entry(name)
        out = torch.empty(entry.count, dtype=torch_dtype(word))
        for start, piece in self.pieces(name, plan, word):
            out[start : start + len(piece)] = piece
        return out.reshape(entry.shape)

    def write(
        self,
        plan: MergePlan,
        folder: Path,
        *,
        dtype: str | None = None,
        shard_size: int = SHARD_SIZE,
        digests: bool = False,
        once: bool = False,
    ) -> Written:
        """Write all tensors as shards with their index; nothing else.

        Args:
            plan: tensors that it does not name are copied from the base.
            folder: exists, as `evomerge.checkpoint.files.staged_folder` gives it.
            dtype: of the merged tensors; None keeps the base's, tensor by tensor.
            shard_size: bytes per shard.
            digests: compute those of the shards while their bytes are at hand.
            once: nothing else reads the models soon; what is not in the page cache stays out of it.

        Raises:
            CheckpointError: a file changed, or the plan names a tensor that is not there.
            UsageError: the plan does not fit the models or its method.
            DiskFullError: there is no space.
        """
        self.check(plan)
        words = {name: self.word(name, dtype) for name in self.base.tensors}
        layout = [(name, word, self.base.entry(name).shape) for name, word in words.items()]
        bad = dict.fromkeys(words, 0)

        def write_one(name: str) -> None:
            for start, piece in self.pieces(name, plan, words[name]):
                entries = Entries.of(piece)
                bad[name] += non_finite(entries)
                writer.write_entries(name, start, entries)

        method, every = method_named(plan.method), range(len(plan.models))
        if not formulated(method) or not all(
            self.fits(self._inputs(name, plan), every, words[name]) for name in plan.tensors
        ):
            import torch  # noqa: F401  before there are threads, which do not share its work then
        with CheckpointWriter(
            folder, layout, shard_size=shard_size, ordered=digests, stems=self.base.stems
        ) as writer:
            if method.traits.whole or method.traits.local:
                self.spread(write_one, words)
            else:
                threads = allowed_threads()
                with one_thread_each():
                    StreamedMerge(self, plan, words, bad, threads=threads, once=once).write(writer)
            writer.finish()
        return Written({name: count for name, count in bad.items() if count}, writer.digests)

    def check(self, plan: MergePlan) -> None:
        """Says whether a plan fits these checkpoints.

        Raises:
            CheckpointError: it names a tensor that is not there.
            UsageError: it names another model, or settings that its method does not take.
        """
        method = method_named(plan.method)
        check_count(method, len(plan.models))
        for model in plan.models:
            if model not in self.models:
                raise UsageError(f"the plan names the model {quoted(model)}, which is not open")
        if method.traits.adapters:
            check_joinable(method.name, {model: self.models[model] for model in plan.models})
        for name in plan.tensors:
            self.base.entry(name)
        # Tensors of a group share their settings.
        for settings in {id(settings): settings for settings in plan.tensors.values()}.values():
            check_settings(method, settings, len(plan.models))

    def word(self, name: str, dtype: str | None) -> str:
        """The safetensors dtype of a tensor of the output; only merged tensors are converted."""
        entry = self.base.entry(name)
        return parse_dtype(dtype) if dtype is not None and merges(entry) else entry.dtype

    def settings(self, name: str, plan: MergePlan) -> Settings | None:
        """A tensor's settings; None where the outcome is the base's own tensor.

        With a steady method it is where no model counts that has another. A tensor that `follows`
        another has the other's settings.
        """
        settings = plan.tensors.get(self.follows.get(name, name))
        if settings is None or not merges(self.base.entry(name)):
            return None
        method = method_named(plan.method)
        used = method.used(settings)
        for i in used:
            if may_differ(self.models[plan.models[i]], name):
                return settings
        return settings if used and not method.traits.steady else None

    def pieces(self, name: str, plan: MergePlan | None, word: str) -> Iterator[Piece]:
        """A tensor of the output piece by piece: first entry, and entries in the dtype `word`.

        A piece is overwritten by the next.

        Args:
            name: of the tensor.
            plan: one that passed `check`; None for the base.
            word: safetensors dtype.
        """
        settings = None if plan is None else self.settings(name, plan)
        with self.scratches.one() as scratch:
            if plan is None or settings is None:
                yield from copied(self.base, name, torch_dtype(word), scratch)
                return
            merge = self._merge(name, plan, settings, word, scratch)
            yield from merged(merge, torch_dtype(word), scratch)

    def merge(self, name: str, plan: MergePlan, word: str) -> TensorMerge | None:
        """How a tensor of the output is merged; None where it is the base's own.

        Args:
            name, plan, word: as for `pieces`.
        """
        settings = self.settings(name, plan)
        if settings is None:
            return None
        with self.scratches.one() as scratch:
            return self._merge(name, plan, settings, word, scratch)

    def chunks(self, name: str) -> Iterator[Chunk]:
        """A tensor's chunks in order, to look at: with every model's whole task vector."""
        plan = MergePlan("task_arithmetic", tuple(self.models), {})
        with self.scratches.one() as scratch:
            yield from stretches(self._inputs(name, plan), range(len(self.models)), scratch)

    def spread(self, work: Callable[[str], Result], names: Iterable[str]) -> list[Result]:
        """Do something for each tensor, in as many threads as torch may use; large ones first."""
        return spread(work, sorted(names, key=lambda name: -self.base.entry(name).size))

    def used(self, plan: MergePlan, settings: Settings) -> tuple[int, ...]:
        """The models that a tensor with these settings depends on, by their place in the plan."""
        return method_named(plan.method).used(settings)

    def tables(
        self, name: str, plan: MergePlan, settings: Settings, each: Each = map
    ) -> tuple[dict[int, MagnitudeTable], tuple[int, ...]]:
        """The tables of magnitudes that the merge of a tensor needs, and whose are yet to be made.

        Args:
            name, plan, settings: of the tensor.
            each: for the tables of adapters that need no entries of the base: see `product_tables`.
        """
        method = method_named(plan.method)
        densities = method.densities(settings)
        if densities is None:
            return {}, ()
        sparse = [i for i in method.used(settings) if densities[i] < 1]
        if method.traits.pooled:

            def of_tensor(tensor: str) -> dict[int, MagnitudeTable]:
                with self.scratches.one() as scratch:
                    return self._counted(self._inputs(tensor, plan), plan.models, sparse, scratch)

            return self._pool.tables(plan.models, sparse, of_tensor), ()
        known = self._known(self._inputs(name, plan), plan.models, sparse, each)
        return known, tuple(i for i in sparse if i not in known)

    def keep(self, name: str, model: str, table: MagnitudeTable) -> None:
        """Remember a table that was counted."""
        self.index.add(self._vector(name, model), table)

    def merge_of(
        self,
        inputs: Inputs,
        plan: MergePlan,
        settings: Settings,
        word: str,
        tables: Mapping[int, MagnitudeTable],
    ) -> TensorMerge:
        """How a tensor is merged.

        Args:
            inputs: where its entries come from.
            plan, settings: of the tensor.
            word: safetensors dtype of the output.
            tables: all that the merge needs.
        """
        method = method_named(plan.method)
        densities, used = method.densities(settings) or (), method.used(settings)
        thresholds = {i: table.threshold(densities[i]) for i, table in tables.items()}
        kept = {
            i: threshold.masked(plan.mask, (plan.seed, inputs.name, plan.models[i]))
            for i, threshold in thresholds.items()
            if threshold is not None
        }
        form = formula(method, settings, kept) if self.fits(inputs, used, word) else None
        found = None
        if surveys(method):
            tensor = inputs.name if method.traits.local else None
            found = self._pool.survey(method, plan, used, self._inputs, tensor)
        if method.traits.adapters:
            found = joined(method, settings, inputs)
        sums, whole = summed(method, settings, kept, inputs), None
        if sums is not None and not (self.compiled and compiled(kept, inputs, word)):
            whole = None if sums.rules is not None else sum_of(sums.parts())
            sums = None
        return TensorMerge(inputs, method, settings, kept, form, sums, found, whole)

    def fits(self, inputs: Inputs, models: Sequence[int], *words: str) -> bool:
        """Whether the compiled loops take these models, beside the base and other dtypes."""
        if not self.compiled or inputs.adapted(models):
            return False
        return fits([*(s.entry(inputs.name).dtype for s in inputs.stored(models)), *words])

    def _merge(
        self, name: str, plan: MergePlan, settings: Settings, word: str, scratch: Scratch
    ) -> TensorMerge:
        inputs = self._inputs(name, plan)
        tables, unknown = self.tables(name, plan, settings)
        tables |= self._counted(inputs, plan.models, unknown, scratch)
        return self.merge_of(inputs, plan, settings, word, tables)

    def _inputs(self, name: str, plan: MergePlan) -> Inputs:
        models = [self.models[model] for model in plan.models]
        return Inputs(name, self.base, models, plan.models, plan.seed)

    def _known(
        self, inputs: Inputs, models: Sequence[str], wanted: Sequence[int], each: Each = map
    ) -> dict[int, MagnitudeTable]:
        """Tables of the index, and of adapters whose factors are all that is needed."""
        known = {}
        for i in wanted:
            table = self.index.held(inputs.name, models[i])
            table = table or self.index.find(self._vector(inputs.name, models[i]))
            if table is not None:
                known[i] = table
        if self.compiled and len(known) < len(wanted):
            made = product_tables(inputs, [i for i in wanted if i not in known], each)
            for i, table in made.items():
                self.keep(inputs.name, models[i], table)
            known |= made
        return known

    def _counted(
        self, inputs: Inputs, models: Sequence[str], wanted: Sequence[int], scratch: Scratch
    ) -> dict[int, MagnitudeTable]:
        """One tensor's tables of some models, counted if they are not known."""
        known = self._known(inputs, models, wanted)
        if unknown := [i for i in wanted if i not in known]:
            compiled = self.fits(inputs, unknown)
            counted = magnitude_tables(inputs, unknown, scratch, compiled=compiled)
            for i, table in counted.items():
                self.keep(inputs.name, models[i], table)
            known |= counted
        return known

    def _vector(self, name: str, model: str) -> VectorKey:
        source = self.models[model]
        count = self.base.entry(name).count
        return VectorKey(name, model, count, self.base.identity(name), source.identity(name))
