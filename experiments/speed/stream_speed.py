"""`evomerge merge` against `mergekit-yaml` on the same files, as whole processes.

A base and three models of a Llama's shape, bfloat16, are written here: about 2 GB with the default
of 14 layers. Each command runs in a process of its own, in turn; its CPU time (user and system of
the process and its children), wall time and peak anonymous memory (RssAnon, sampled) are taken,
and the outputs compared. The start-up is the same command on a model of 5 M parameters, which is
enough for the compiled loops to be loaded. Run once before: kernels compiled, digests known.

    python experiments/speed/stream_speed.py --mergekit /path/to/mergekit-yaml

`--cold` measures our merge with the inputs dropped from the page cache, against the same merge
out of memory maps.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from bench import Memory, machine

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.writer import CheckpointWriter
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

MODELS = ("m1", "m2", "m3")
METHODS = ("ties", "linear")
WHO = ("evomerge", "mergekit")
NUMBERS = {"ties": "{weight: 1.0, density: 0.3, scaling: 1.0}", "linear": "{weight: 1.0}"}
SETTINGS = {
    "ties": {"weight": (1.0,) * 3, "density": (0.3,) * 3, "scaling": 1.0},
    "linear": {"weight": (1.0,) * 3},
}


class Shape(NamedTuple):
    """Of a Llama."""

    layers: int
    hidden: int
    inner: int
    vocabulary: int


TINY = Shape(1, 512, 1024, 2500)


def shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (shape.vocabulary, shape.hidden)
    for i in range(shape.layers):
        block = f"model.layers.{i}."
        for part in "qkvo":
            yield f"{block}self_attn.{part}_proj.weight", (shape.hidden, shape.hidden)
        for part in ("gate", "up"):
            yield f"{block}mlp.{part}_proj.weight", (shape.inner, shape.hidden)
        yield f"{block}mlp.down_proj.weight", (shape.hidden, shape.inner)
        for part in ("input", "post_attention"):
            yield f"{block}{part}_layernorm.weight", (shape.hidden,)
    yield "model.norm.weight", (shape.hidden,)
    yield "lm_head.weight", (shape.vocabulary, shape.hidden)


def write_models(folder: Path, model_shape: Shape) -> None:
    """Independent random numbers, steps of 1e-3 on weights of 0.02."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": model_shape.hidden,
        "intermediate_size": model_shape.inner,
        "num_hidden_layers": model_shape.layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "vocab_size": model_shape.vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    layout = [(name, "BF16", shape) for name, shape in shapes(model_shape)]
    for seed, model in enumerate(("base", *MODELS)):
        place = folder / model
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config))
        with CheckpointWriter(place, layout) as writer:
            for number, (name, _, shape) in enumerate(layout):
                first = torch.Generator().manual_seed(number)
                numbers = torch.empty(shape).normal_(0, 0.02, generator=first)
                if seed:
                    own = torch.Generator().manual_seed(1000 * seed + number)
                    numbers += torch.empty(shape).normal_(0, 1e-3, generator=own)
                writer.write(name, 0, numbers.bfloat16().flatten())
            writer.finish()


def write_recipes(folder: Path, models: Path, name: str) -> None:
    """Ours and mergekit's for both methods."""
    paths = {model: str(models / model) for model in ("base", *MODELS)}
    for method in METHODS:
        chosen = ", ".join(f"{model}: {paths[model]}" for model in MODELS)
        (folder / f"{method}-{name}.yaml").write_text(
            f"base: {paths['base']}\nmodels: {{{chosen}}}\n"
            "merge:\n  groups: {embeddings: own, head: own}\n"  # mergekit trims them too
            f"  method: {method}\n  parameters: {NUMBERS[method]}\n"
        )
        each: dict[str, float] = {"weight": 1.0}
        theirs: dict[str, object] = {"merge_method": method, "dtype": "bfloat16"}
        if method == "ties":
            each["density"] = 0.3
            theirs |= {"base_model": paths["base"], "parameters": {"normalize": True}}
        theirs["models"] = [{"model": paths[m], "parameters": each} for m in MODELS]
        (folder / f"{method}-{name}.mergekit.yaml").write_text(json.dumps(theirs))


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds, seconds, bytes."""

    cpu: float
    wall: float
    anonymous: int


def cost(command: list[str]) -> Cost:
    """Run it to its end."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    highest = 0
    while process.poll() is None:
        highest = max(highest, anonymous(process.pid))
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode} of {' '.join(command)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, time.perf_counter() - begin, highest)


def anonymous(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("RssAnon")]
    return int(found[0]) * 1024 if found else 0


def compare(folder: Path, mergekit: str, rounds: int) -> None:
    """Both programs, both methods, both sizes, in turn."""
    costs: dict[tuple[str, str, str], list[Cost]] = {}
    for turn in range(rounds + 1):
        for method in METHODS:
            for size in ("tiny", "whole"):
                for who in WHO:
                    if who == "mergekit" and not turn:
                        continue  # only ours compiles and remembers
                    out = folder / f"out-{who}-{method}"
                    shutil.rmtree(out, ignore_errors=True)
                    recipe = f"{folder}/{method}-{size}"
                    ours = [sys.executable, "-m", "evomerge", "merge", f"{recipe}.yaml", str(out)]
                    theirs = [mergekit, f"{recipe}.mergekit.yaml", str(out)]
                    theirs += ["--no-copy-tokenizer", "--quiet"]
                    found = cost(ours if who == "evomerge" else theirs)
                    print(f"  {turn} {who} {method} {size}: {found}", flush=True)
                    if turn:
                        costs.setdefault((who, method, size), []).append(found)
                    elif size == "whole" and method == METHODS[0]:
                        print(f"first time, digests included: {found.cpu:.2f} s CPU", flush=True)
        for method in METHODS:
            if turn == 1:
                check(folder, method)
    report(costs)


def report(costs: Mapping[tuple[str, str, str], list[Cost]]) -> None:
    def median(of: Callable[[Cost], float], *key: str) -> float:
        return statistics.median(of(c) for c in costs[key[0], key[1], key[2]])

    for method in METHODS:
        ours, theirs = (
            {size: median(lambda c: c.cpu, who, method, size) for size in ("tiny", "whole")}
            for who in WHO
        )
        walls = [median(lambda c: c.wall, who, method, "whole") for who in WHO]
        peaks = [
            max(c.anonymous for c in costs[w, method, "whole"]) for w in ("evomerge", "mergekit")
        ]
        beyond = (theirs["whole"] - theirs["tiny"]) / (ours["whole"] - ours["tiny"])
        print(
            f"{method}: CPU {ours['whole']:.2f} s against {theirs['whole']:.2f} s: "
            f"{theirs['whole'] / ours['whole']:.1f} x; start-up {ours['tiny']:.2f} and "
            f"{theirs['tiny']:.2f} s; beyond it {beyond:.0f} x; wall {walls[0]:.1f} and "
            f"{walls[1]:.1f} s; peak anonymous {peaks[0] / 1e6:.0f} and {peaks[1] / 1e6:.0f} MB"
        )


def check(folder: Path, method: str) -> None:
    """The output loads in transformers, and is mergekit's but for rounding and ties."""
    from transformers import AutoModelForCausalLM

    ours, theirs = (folder / f"out-{who}-{method}" for who in WHO)
    AutoModelForCausalLM.from_pretrained(ours, dtype=torch.bfloat16)
    entries = different = 0
    largest = 0.0
    with Checkpoint.open(ours) as one, Checkpoint.open(theirs) as other:
        for name in one.tensors:
            left, right = one.tensor(name).float(), other.tensor(name).float()
            apart = (left - right).abs()
            entries += apart.numel()
            different += int((apart > 2**-8 * right.abs() + 1e-8).sum())
            largest = max(largest, float(apart.max()))
    print(
        f"{method}: loads; {100 * different / entries:.4f} % of the entries differ by more than "
        f"one rounding to bfloat16, by at most {largest:.5f}",
        flush=True,
    )


def drop(folder: Path) -> None:
    """Push the inputs out of the page cache."""
    for path in folder.glob("*/*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Taken(NamedTuple):
    """Seconds, of the clock and of the processor, in this process."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.cpu:.2f} s CPU)"


@contextmanager
def timed(into: list[Taken]) -> Iterator[None]:
    begin, spent = time.perf_counter(), time.process_time()
    yield
    into.append(Taken(time.perf_counter() - begin, time.process_time() - spent))


def medians(found: list[Taken]) -> Taken:
    return Taken(*(statistics.median(column) for column in zip(*found, strict=True)))


class Way(NamedTuple):
    """To read files.

    Attributes:
        requests: under way at the same time.
        size: of each, in bytes.
        direct: past the page cache.
        advised: with POSIX_FADV_SEQUENTIAL.
    """

    requests: int
    size: int
    direct: bool = False
    advised: bool = False


def read_all(into: list[Taken], folder: Path, way: Way) -> None:
    """Read the inputs from the disk and throw them away: no merge takes less."""
    drop(folder)
    flags = os.O_RDONLY | (os.O_DIRECT if way.direct else 0)
    files = [os.open(path, flags) for path in sorted(folder.glob("*/*.safetensors"))]
    pieces = [(f, at) for f in files for at in range(0, os.fstat(f).st_size, way.size)]
    idle = [mmap.mmap(-1, way.size) for _ in range(way.requests)]
    for file in files if way.advised else ():
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read(piece: tuple[int, int]) -> None:
        room = idle.pop()
        os.preadv(piece[0], [room], piece[1])
        idle.append(room)

    with timed(into), ThreadPoolExecutor(way.requests) as pool:
        list(pool.map(read, pieces))
    for file in files:
        os.close(file)


READING = {
    "plain, 4 of 8 MB": Way(4, 2**23),
    "plain, 16 of 2 MB": Way(16, 2**21),
    "plain, 16 of 2 MB, SEQUENTIAL": Way(16, 2**21, advised=True),
    "direct, 4 of 8 MB": Way(4, 2**23, direct=True),
    "direct, 16 of 2 MB": Way(16, 2**21, direct=True),
    "direct, 32 of 8 MB": Way(32, 2**23, direct=True),
}


def cold(folder: Path, rounds: int) -> None:
    """The streamed merge against one that computes right out of memory maps, then writes."""
    models = folder / "whole"
    torch.set_num_threads(2)

    def merged(into: list[Taken], method: str, mapped: bool) -> None:
        drop(models)
        out = folder / "out-cold"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        base = Checkpoint.open(models / "base")
        merger = Merger(base, {name: Checkpoint.open(models / name) for name in MODELS})
        plan = MergePlan(method, MODELS, dict.fromkeys(base.tensors, SETTINGS[method]))
        with timed(into):
            if mapped:
                layout = [(name, entry.dtype, entry.shape) for name, entry in base.tensors.items()]
                module = Memory(base)
                LiveMerge(merger, module).apply(plan)
                with CheckpointWriter(out, layout) as writer:
                    for name, tensor in module.tensors.items():
                        writer.write(name, 0, tensor.detach().view(-1))
                    writer.finish()
            else:
                merger.write(plan, out, digests=True, once=True)
        for checkpoint in (base, *merger.models.values()):
            checkpoint.close()

    for method in METHODS:
        found: dict[bool, list[Taken]] = {False: [], True: []}
        bare: dict[str, list[Taken]] = {how: [] for how in READING}
        for turn in range(rounds + 1):
            for mapped, into in found.items():
                merged(into if turn else [], method, mapped)
            for how, way in READING.items() if turn else ():
                read_all(bare[how], models, way)
        ours, maps = (medians(found[mapped]) for mapped in (False, True))
        print(f"cold, {method}: {ours}, by maps {maps}: {maps.wall / ours.wall:.1f} x")
        for how, times in bare.items():
            least = medians(times)
            print(f"  reading alone, {how}: {least}, so at most {maps.wall / least.wall:.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit", help="the program mergekit-yaml; without it only --cold")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--folder", type=Path, help="where 3 GB go for a while")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        os.environ["EVOMERGE_CACHE"] = str(folder / "cache")
        write_models(folder / "whole", Shape(options.layers, 1024, 2816, 32000))
        write_models(folder / "tiny", TINY)
        time.sleep(3)  # files that just changed are not remembered
        for size in ("whole", "tiny"):
            write_recipes(folder, folder / size, size)
        if options.mergekit:
            compare(folder, options.mergekit, options.rounds)
        if options.cold:
            cold(folder, options.rounds)


if __name__ == "__main__":
    main()
