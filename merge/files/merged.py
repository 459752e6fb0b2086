"""One line of a recipe as a checkpoint that does not exist yet: tensors are computed when they are read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...blocks.keys import (
    EMA,
    MARKERS,
    OTHER,
    POSITION_IDS,
    UNET,
    VAE_PART,
    part_of,
)
from ..errors import MergeError
from ..methods import METHODS, seed_for
from ..methods.finite import all_finite
from ..ratios import RatioTable, common_layout, merges
from ..recipe.grammar import Line
from ..report import Report
from .checkpoint import Checkpoint, Stored
from .dtypes import output_dtype
from .ema import EmaSwapped
from .header import Entry
from .vae import baked

INPUT_CONV = "input_blocks.0.0.weight"  # 4 latent channels; 9 for inpainting, 8 for instruct-pix2pix
EMBEDDING = ".position_embedding.weight"
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """How one output tensor comes about: copied from a key of one source, or blended.

    ``channels`` limits the blend to the first channels of dimension 1 (inpainting models have more).
    """

    source: Checkpoint
    key: str
    ratios: Mapping[str, float] | None = None
    channels: int | None = None


class MergedCheckpoint:
    """The result of a line, read in pieces from any number of threads.

    Every key of A is in it unless it was asked to go; what a source lacks stays A's and is reported. Raises
    MergeError for models that cannot be merged and, while reading, for NaN in a source.
    """

    def __init__(
        self,
        line: Line,
        sources: Sequence[Checkpoint],
        vae: Checkpoint | None = None,
        own_presets: Mapping[str, Sequence[float]] | None = None,
    ):
        self.line, self.name, self.report = line, line.output, Report(line.output)
        self.method = METHODS[line.method]
        self.options: dict[str, float] = dict(line.options)
        self.sources = [EmaSwapped(source) for source in sources] if line.ema == "swap" else list(sources)
        self.layout = common_layout(line, self.sources)
        self.table = RatioTable(line, self.method, self.layout, own_presets)
        self.jobs: dict[str, Job] = {}
        self.entries: dict[str, Entry] = {}
        for key, entry in self.sources[0].entries.items():
            self._plan(key, entry)
        if line.position_ids == "reset":
            self._add_position_ids()
        if vae is not None:
            self._bake(vae)
        self._look_at_others()

    def _plan(self, key: str, entry: Entry) -> None:
        part, line = part_of(key), self.line
        if part == EMA and (line.ema != "keep" or line.prune == "yes"):
            return self.report.count("EMA dropped")
        if part == OTHER and line.prune == "yes" and key not in MARKERS:
            return self.report.count("pruned")
        dtype = output_dtype(line.dtype, part, entry)
        if self._repairs(key):
            dtype = torch.int64
        self.entries[key] = Entry(dtype, entry.shape)
        self.jobs[key] = self._job(key, entry, part)
        job = self.jobs[key]
        kept = "kept from A" if job.source is self.sources[0] else f"taken from {job.source.name}"
        self.report.count("merged" if job.ratios else kept)

    def _repairs(self, key: str) -> bool:
        return key.endswith(POSITION_IDS) and self.line.position_ids != "skip"

    def _add_position_ids(self) -> None:
        """Write them for every text encoder, also where A has none, as some older tools want."""
        for key, entry in list(self.entries.items()):
            name = f"{key.removesuffix(EMBEDDING)}{POSITION_IDS}"
            if key.endswith(EMBEDDING) and name not in self.entries:
                self.entries[name] = Entry(torch.int64, (1, entry.shape[0]))
                self.jobs[name] = Job(self.sources[0], name)
                self.report.remarks.append(f"{name} was missing: written as 0, 1, 2, ...")

    def _job(self, key: str, entry: Entry, part: str) -> Job:
        keep = Job(self.sources[0], key)
        if not merges(part, self.layout) or not entry.dtype.is_floating_point or key.endswith(POSITION_IDS):
            return keep
        ratios = self.table.of(key, part)
        if ratios is None:
            return keep
        index = self.method.passthrough(ratios)
        if index == 0:
            return keep
        whole = index is not None and self.line.nan == "error"  # keep_a needs A's values at hand
        others = [self.sources[index or 0]] if whole else self.sources[1:]
        for other in others:
            if key not in other.entries:
                self.report.list(f"kept from A, {other.name} lacks them", key)
                return keep
        shapes = [entry.shape, *(other.entries[key].shape for other in others)]
        if all(shape == entry.shape for shape in shapes):
            return Job(others[0], key) if whole else Job(self.sources[0], key, ratios)
        channels = self._common_channels(key, shapes)
        if channels is None:
            if part == UNET:
                found = " and ".join(str(list(shape)) for shape in shapes)
                raise MergeError(f"{key} has the shapes {found}: these models are of different kinds")
            self.report.list("kept from A, the shapes differ", key)
            return keep
        self.report.list(f"merged in the first {channels} channels, the others kept from A", key)
        return Job(self.sources[0], key, ratios, channels)

    def _common_channels(self, key: str, shapes: Sequence[tuple[int, ...]]) -> int | None:
        first = shapes[0]
        if not key.endswith(INPUT_CONV) or any(s[:1] + s[2:] != first[:1] + first[2:] for s in shapes):
            return None
        if any(shape[1] > first[1] for shape in shapes):
            raise MergeError(
                f"{key} takes {first[1]} channels in {self.sources[0].name} and {max(s[1] for s in shapes)} in another "
                "model: put the inpainting or instruct-pix2pix model first (A)"
            )
        return min(shape[1] for shape in shapes)

    def _bake(self, vae: Checkpoint) -> None:
        found = baked(vae, self.sources[0])
        for name, tensor in found.items():
            self.entries[name] = Entry(
                output_dtype(self.line.dtype, VAE_PART, tensor.entry), tensor.entry.shape
            )
            self.jobs[name] = Job(vae, tensor.key)
        self.report.remarks.append(f"VAE baked in from {vae.name}: {len(found)} tensors")

    def _look_at_others(self) -> None:
        """Keys only other sources have, and markers they disagree on."""
        for other in self.sources[1:]:
            for key in other.entries:
                if key in self.sources[0].entries or key in self.entries:
                    continue
                if self.line.extra_keys == "copy" and part_of(key) != EMA and key not in MARKERS:
                    self.entries[key] = Entry(
                        output_dtype(self.line.dtype, part_of(key), other.entries[key]),
                        other.entries[key].shape,
                    )
                    self.jobs[key] = Job(other, key)
                    self.report.list(f"copied from {other.name}, A lacks them", key)
                elif key in MARKERS:
                    self.report.remarks.append(
                        f"{other.name} carries the marker {key}, A does not: A's kind is kept"
                    )
                elif part_of(key) != EMA:
                    self.report.list(f"left out, only {other.name} has them", key)
            for key in MARKERS:
                if key in self.sources[0].entries and key not in other.entries:
                    self.report.remarks.append(
                        f"A carries the marker {key}, {other.name} does not: A's kind is kept"
                    )
        if len(self.sources) > 1 and not any(job.ratios for job in self.jobs.values()):
            shared = any(key in other.entries for other in self.sources[1:] for key in self.entries)
            if not shared:
                raise MergeError(f"{' and '.join(s.name for s in self.sources)} have no tensors in common")

    def prepare(self, tick: Tick = lambda done: None) -> None:
        """Methods that measure the whole model first do so here; ``tick`` is told the bytes looked at."""
        for source in self.sources:
            inner = source.inner if isinstance(source, EmaSwapped) else source
            if isinstance(inner, MergedCheckpoint):
                inner.prepare(tick)
        method = self.method
        if method.survey is None or method.conclude is None:
            return
        measures = []
        for key, job in self.jobs.items():
            if job.ratios and part_of(key) != VAE_PART and job.channels is None and self.entries[key].shape:
                a, b = (source.read(key).view(self.entries[key].shape) for source in self.sources[:2])
                measures.append(method.survey(a, b))
                tick(self.entries[key].nbytes)
        if measures:
            self.options = {**self.options, **method.conclude(measures)}

    def divisible(self, key: str) -> bool:
        job = self.jobs[key]
        if job.ratios is None:
            return job.source.divisible(job.key) and not self._repairs(key)
        whole = job.channels is not None or not self.method.elementwise
        return not whole and all(source.divisible(key) for source in self.sources)

    def stored(self, key: str) -> Stored | None:
        """A's own bytes where nothing is done to them; what comes from another model is read and looked at."""
        job = self.jobs[key]
        if job.ratios is not None or job.source is not self.sources[0] or self._repairs(key):
            return None
        same = job.source.entries[job.key].dtype == self.entries[key].dtype
        return job.source.stored(job.key) if same else None

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        job, entry = self.jobs[key], self.entries[key]
        stop = entry.numel if stop is None else stop
        if self._repairs(key):
            return self._position_ids(job, key)
        if job.ratios is None:
            kept = job.source.read(job.key, start, stop)
            if job.source is self.sources[0] and kept.dtype == entry.dtype:
                return kept  # A's own bits, whatever they are
            return self._checked(kept.to(entry.dtype), [kept], [job.source], key)
        tensors = [source.read(key, *(() if job.channels else (start, stop))) for source in self.sources]
        if not self.divisible(key):
            tensors = [t.view(s.entries[key].shape) for t, s in zip(tensors, self.sources, strict=True)]
        merged = self._blend(tensors, job, key, entry.dtype)
        return self._checked(merged, tensors, self.sources, key).reshape(-1)

    def _blend(self, tensors: Sequence[Tensor], job: Job, key: str, dtype: torch.dtype) -> Tensor:
        assert job.ratios is not None
        seed = seed_for(self.line.seed, key) if self.method.seeded else None
        if job.channels is None:
            return self.method.blend(tensors, job.ratios, self.options, seed=seed, dtype=dtype)
        out = tensors[0].to(dtype, copy=True)
        shared = [tensor[:, : job.channels] for tensor in tensors]
        out[:, : job.channels] = self.method.blend(shared, job.ratios, self.options, seed=seed, dtype=dtype)
        return out

    def _position_ids(self, job: Job, key: str) -> Tensor:
        """0, 1, 2, ... as integers: merges by other tools left fractions or half floats here."""
        right = torch.arange(self.entries[key].numel)
        if job.key not in job.source.entries:
            return right
        given = job.source.read(job.key)
        broken = given.dtype != torch.int64 or not torch.equal(given, right)
        if broken:
            self.report.remarks.append(
                f"{key} was {given.dtype} with wrong or rounded values: reset to 0, 1, 2, ..."
            )
        return right

    def _checked(
        self, out: Tensor, given: Sequence[Tensor], sources: Sequence[Checkpoint], key: str
    ) -> Tensor:
        """NaN and infinity in a source are an error (or A's value stays); those made by rounding are counted."""
        if not out.is_floating_point() or all_finite(out):
            return out
        for tensor, source in zip(given, sources, strict=True):
            if all_finite(tensor):
                continue
            if self.line.nan != "keep_a":
                raise MergeError(
                    f"{source.name}: {key} holds NaN or infinity; repair the file, or use nan=keep_a"
                )
            bad = ~out.float().isfinite()
            self.report.add_elements(f"NaN or infinity in {source.name}, A's value kept", key, int(bad.sum()))
            return self._with_a(out, bad, given[0])
        over = int((~out.float().isfinite()).sum())
        self.report.add_elements(f"beyond the range of {str(out.dtype).removeprefix('torch.')}", key, over)
        return out

    def _with_a(self, out: Tensor, bad: Tensor, a: Tensor) -> Tensor:
        return torch.where(bad, a.to(torch.float32), out.to(torch.float32)).to(out.dtype)
