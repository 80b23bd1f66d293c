"""A mergekit file bound to open checkpoints: which tensor comes from where, with which numbers.

How mergekit finds a number, seen by running it: at the input, else at the slice, else at the
whole merge, the first case that holds for the tensor; a gradient runs over the layers of its
slice; tensors outside the layers take its first number, those before the layers from the first
slice, those behind from the last. Filters see a tensor's name in its own model where the number
is a model's, and its name in the output where the number is the merge's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.models import Model, own_tensors
from evomerge.checkpoint.names import shown
from evomerge.errors import CheckpointError, UsageError
from evomerge.merging.method import Settings, per_model
from evomerge.merging.plan import MergePlan
from evomerge.recipe.anatomy import anatomy, layer_of
from evomerge.recipe.mergekit_file import BASE, MergekitFile, Slice, Source, refused
from evomerge.recipe.mergekit_methods import Numbers, Param


@dataclass(frozen=True)
class Arrangement:
    """What the engine takes.

    Attributes:
        base: the base, or the first input where there is none.
        models: by their names in the plan.
        plan: settings of the output's tensors.
        layers: for each layer of the output, the base's own that it is; None where all are in
            place.
    """

    base: Checkpoint
    models: Mapping[str, Model]
    plan: MergePlan
    layers: tuple[int, ...] | None


@dataclass(frozen=True)
class _Row:
    """One tensor of the output.

    Attributes:
        depth: of its layer in the slice, in [0, 1]; 0 outside the layers.
        own: the tensor's name by model.
    """

    name: str
    part: Slice
    depth: float
    own: Mapping[str, str]


def arrange(file: MergekitFile, opened: Mapping[str, Model]) -> Arrangement:
    """Bind a file to its models.

    Args:
        opened: by the file's names.

    Raises:
        CampaignError: layers that are not there, a number that is missing, or that a method here
            cannot take.
    """
    return _Binding(file, opened).arrangement()


class _Binding:
    """Lives for one call of `arrange`."""

    def __init__(self, file: MergekitFile, opened: Mapping[str, Model]) -> None:
        self.file = file
        self.opened = opened
        self.slices = tuple(self._with_base(part) for part in file.slices)
        self.rows = tuple(self._rows())
        self.slots = self._slots()

    def arrangement(self) -> Arrangement:
        """The whole."""
        told = {row.name: self._told(row) for row in self.rows}
        methods = {ours for ours, _ in told.values()}
        if len(methods) > 1:
            raise refused(self.file, "normalize has to be the same for all tensors")
        settings = {name: found for name, (_, found) in told.items() if found is not None}
        leads = [part.sources[0].model for part in self.slices]
        plan = _plan(methods.pop(), self._names(), settings, self._base_slot())
        base = self._view(leads)
        if not isinstance(base, Checkpoint):
            raise CheckpointError("is an adapter; the base has to be whole", place=shown(base.path))
        return Arrangement(
            base,
            {
                name: self._view([self._model(i, part) for part in self.slices])
                for i, name in enumerate(self._names())
            },
            plan,
            self._layers(),
        )

    def _with_base(self, part: Slice) -> Slice:
        """The base first, as an input like the others."""
        by_name = {source.model: source for source in part.sources}
        if not self.file.based:
            return part
        base = by_name.pop(BASE, None) or Source(BASE, None, {}, part.place)
        return Slice((base, *by_name.values()), part.values, part.place)

    def _rows(self) -> Iterator[_Row]:
        whole = self.slices[0].sources[0].layers is None
        yield from self._outside()
        if whole:
            yield from self._in_place(self.slices[0])
            return
        first = 0
        for part in self.slices:
            yield from self._moved(part, first)
            first += _count(part)

    def _outside(self) -> Iterator[_Row]:
        """Tensors before the layers, of the first slice, and behind them, of the last."""
        head, tail = self.slices[0], self.slices[-1]
        for part, early in ((head, True), (tail, False)):
            names = list(self._names_in(part.sources[0]))
            for name, place in anatomy(names).items():
                if place.layer is None and (place.first is early):
                    own = {source.model: name for source in part.sources}
                    yield _Row(name, part, 0.0, own)

    def _in_place(self, part: Slice) -> Iterator[_Row]:
        names = self._names_in(part.sources[0])
        places = {name: place for name in names if (place := layer_of(name)) is not None}
        last: dict[str, int] = {}
        for before, number, _ in places.values():
            last[before] = max(last.get(before, 0), number)
        for name, (before, number, _) in places.items():
            depth = number / last[before] if last[before] else 1.0
            yield _Row(name, part, depth, {source.model: name for source in part.sources})

    def _moved(self, part: Slice, first: int) -> Iterator[_Row]:
        """The layers of a slice, which are numbered from `first` in the output."""
        lead, count = part.sources[0], _count(part)
        found = [place for name in self._names_in(lead) if (place := layer_of(name))]
        if len({before for before, _, _ in found}) > 1:
            raise refused(self.file, "slices of a model with several stacks of layers", part.place)
        for source in part.sources:
            self._check_layers(source)
        low = _first(lead)
        for before, number, rest in sorted(found, key=lambda place: place[1]):
            step = number - low
            if not 0 <= step < count:
                continue
            depth = step / (count - 1) if count > 1 else 1.0
            own = {s.model: f"{before}{_first(s) + step}{rest}" for s in part.sources}
            yield _Row(f"{before}{first + step}{rest}", part, depth, own)

    def _check_layers(self, source: Source) -> None:
        places = [layer_of(name) for name in self._names_in(source)]
        layers = {place[1] for place in places if place is not None}
        low, high = source.layers or (0, 0)
        if not set(range(low, high)) <= layers:
            has = f"has layers 0 to {max(layers)}" if layers else "has no layers"
            cause = f"layers {low} to {high - 1} of {source.model!r} are asked for; it {has}"
            raise refused(self.file, cause, source.place)

    def _names_in(self, source: Source) -> Collection[str]:
        """The tensors of an input; an adapter's are those of what it is tuned from."""
        model = self.opened[source.model]
        if not isinstance(model, Checkpoint) and self.file.based:
            model = self.opened[BASE]
        return own_tensors(model).tensors.keys()

    def _slots(self) -> tuple[str, ...]:
        """The models that are inputs of some slice, in the order of mention."""
        inputs = [source.model for part in self.slices for source in self._inputs(part)]
        return tuple(dict.fromkeys(inputs))

    def _inputs(self, part: Slice) -> tuple[Source, ...]:
        """The inputs that are models here: all, or those beside the base."""
        translation = self.file.translation
        if self.file.based and translation.base != "input" and not translation.first:
            return part.sources[1:]
        return part.sources

    @property
    def _by_place(self) -> bool:
        """Whether the method takes a first and a second model, whatever their names."""
        return len(self.slots) > 2 and self.file.method in ("slerp", "nuslerp", "nearswap")

    def _names(self) -> tuple[str, ...]:
        """The models' names in the plan."""
        if self._by_place:
            return "first", "second"
        return self.slots

    def _model(self, place: int, part: Slice) -> str:
        """The model that stands for one of the plan's in a slice; the base where there is none."""
        inputs = [source.model for source in self._inputs(part)]
        if self._by_place:
            return inputs[place]
        name = self.slots[place]
        return name if name in inputs else part.sources[0].model

    def _base_slot(self) -> int | None:
        """The model that is the engine's base in every slice."""
        leads = {part.sources[0].model for part in self.slices}
        return (
            self.slots.index(leads.pop()) if len(leads) == 1 and leads <= set(self.slots) else None
        )

    def _view(self, models: list[str]) -> Model:
        """The tensors of one model per slice under the output's names."""
        one = self.opened[models[0]]
        if set(models) == {models[0]} and self._layers() is None:
            return one
        by_part = dict(zip(map(id, self.slices), models, strict=True))
        taken: dict[str, tuple[Checkpoint, str]] = {}
        for row in self.rows:
            model = by_part[id(row.part)]
            checkpoint, own = self.opened[model], row.own[model]
            if not isinstance(checkpoint, Checkpoint):
                cause = f"the layers of the adapter {model!r} cannot be moved; merge it first"
                raise refused(self.file, cause, row.part.place)
            if own in checkpoint.tensors:
                taken[row.name] = (checkpoint, own)
        return Checkpoint.arranged(one.path, taken)

    def _layers(self) -> tuple[int, ...] | None:
        if self.slices[0].sources[0].layers is None:
            return None
        picked = [n for part in self.slices for n in range(*(part.sources[0].layers or (0, 0)))]
        places = [layer_of(name) for name in self._names_in(self.slices[0].sources[0])]
        count = 1 + max(place[1] for place in places if place is not None)
        moved = any(
            source.layers != part.sources[0].layers
            for part in self.slices
            for source in part.sources
        )
        return None if picked == list(range(count)) and not moved else tuple(picked)

    def _told(self, row: _Row) -> tuple[str, Settings | None]:
        translation, part = self.file.translation, row.part
        merge = {p.name: self._number(p, row, None) for p in translation.params if p.of == "merge"}
        own: dict[str, Numbers] = {
            source.model: {
                p.name: self._number(p, row, source)
                for p in translation.params
                if p.of == "inputs" or (p.of == "models" and source.model != BASE)
            }
            for source in part.sources
        }
        slots = self.slots if not self._by_place else [s.model for s in self._inputs(part)]
        try:
            return translation.tell(merge, [own.get(name) for name in slots], self.file.based)
        except UsageError as problem:
            raise refused(self.file, f"{problem.cause} (tensor {row.name})", part.place) from None

    def _number(self, param: Param, row: _Row, source: Source | None) -> float:
        name = row.name if source is None else row.own[source.model]
        scopes = [row.part.values, self.file.values]
        if source is not None:
            scopes.insert(0, source.values)
        for values in scopes:
            found = values[param.name].at(name, row.depth) if param.name in values else None
            if found is not None:
                return found
        if param.default is None:
            of = f" for {source.model!r}" if source is not None else ""
            cause = f"{self.file.method} needs {param.name}{of}, and tensor {name} has none"
            raise refused(self.file, cause, source.place if source else row.part.place)
        return param.default


def _plan(
    method: str, models: tuple[str, ...], settings: Mapping[str, Settings], base: int | None
) -> MergePlan:
    """Weights that add up to 1 are a sum of task vectors, which is computed faster.

    Args:
        base: the model that is the base itself, whose task vector is 0.
    """
    if method != "weighted_sum" or not all(
        abs(sum(per_model(found, "weight")) - 1) < 1e-9 for found in settings.values()
    ):
        return MergePlan(method, models, settings)
    moved: dict[str, Settings] = {}
    for name, found in settings.items():
        row = enumerate(per_model(found, "weight"))
        others = tuple(0.0 if i == base else weight for i, weight in row)
        moved[name] = {"weight": others, "scaling": 1.0}
    return MergePlan("task_arithmetic", models, moved)


def _count(part: Slice) -> int:
    low, high = part.sources[0].layers or (0, 0)
    return high - low


def _first(source: Source) -> int:
    return source.layers[0] if source.layers is not None else 0
