"""One line of a recipe as a checkpoint that does not exist yet: tensors are computed when they are read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ...blocks import weights
from ...blocks.keys import EMA, MARKERS, OTHER, POSITION_IDS, VAE_PART, part_of
from ..errors import MergeError
from ..methods import METHODS
from ..methods.finite import all_finite
from ..plan import Blend, Keep, Step, Take, make_plan
from ..ratios import Ratios, common_layout, written_out
from ..recipe.model import Line
from ..report import letter
from .added import Added
from .checkpoint import Checkpoint, Stored
from .dtypes import Matrices, unused, written_as
from .ema import EmaSwapped
from .evaluate import Computed, Read, evaluate, lines_below
from .header import Entry
from .quantised import remade, remarks
from .vae import baked

EMBEDDING = ".position_embedding.weight"
Tick = Callable[[int], None]


class MergedCheckpoint(Computed):
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
        loras: Sequence[Added] = (),
    ):
        self.line, self.name = line, line.output
        self.sources = [EmaSwapped(source) for source in sources] if line.ema == "swap" else list(sources)
        self.layout = common_layout(self.sources, [text for _, text in line.ratios])
        self.method = METHODS[line.method]
        table = Ratios(
            self.method,
            line.ratios,
            self.layout,
            key_map=line.key_map,
            selectors=line.elemental,
            read=partial(weights.parse, own_presets=own_presets),
            labels={name: f"{line.output}, {name}" for name, _ in line.ratios},
        )
        self.written_out = replace(
            line,
            ratios=tuple(written_out(pair, table, own_presets or {}) for pair in line.ratios),
            loras=tuple(
                replace(term, weights=lora.weights) for term, lora in zip(line.loras, loras, strict=True)
            ),
        )
        left_out = {key: why for key in self.sources[0].entries if (why := self._left_out(key))}
        self.plan = make_plan(
            line.output,
            self.sources,
            table,
            options=dict(line.options),
            seed=line.seed,
            keys=[key for key in self.sources[0].entries if key not in left_out],
            copy=self._copies,
        )
        self.report = self.plan.notes
        self.report.sources = tuple(source.name for source in self.sources)
        for why in left_out.values():
            self.report.count(why)
        self.added: dict[str, list[Added]] = {}
        for lora in loras:
            self.report.remark(lora.report)
            for key in lora.keys:
                self.added.setdefault(key, []).append(lora)
        self.baked: dict[str, tuple[Checkpoint, str]] = {}
        self._matrices = Matrices(self.sources[0].entries, self.layout)
        self.entries = {key: self._entry(key, self._origin(key)) for key in self.plan.steps}
        if line.position_ids == "reset":
            self._add_position_ids()
        if vae is not None:
            self._bake(vae)
        self._remark()
        self._divisible = {key: self._is_divisible(key) for key in self.entries}
        self._stored = {key: self._stored_bytes(key) for key in self.entries}

    def _left_out(self, key: str) -> str | None:
        """Why a key of A is not in the result."""
        part, line = part_of(key), self.line
        if part == EMA and (line.ema != "keep" or line.prune == "yes"):
            return "left out, moving average"
        if part == OTHER and line.prune == "yes" and key not in MARKERS:
            return "left out, pruned"
        return None

    def _copies(self, key: str) -> bool:
        """Whether a tensor that A lacks is copied from another model."""
        return self.line.extra_keys == "copy" and part_of(key) != EMA and key not in MARKERS

    def _origin(self, key: str) -> Checkpoint:
        step = self.plan.steps[key]
        return (
            self.sources[0]
            if key in self.sources[0].entries or not isinstance(step, Take)
            else self.sources[step.source]
        )

    def _entry(self, key: str, source: Checkpoint) -> Entry:
        entry = source.entries[key]
        if self._repairs(key):
            return Entry(torch.int64, entry.shape)
        written = written_as(self.line.dtype, part_of(key), entry, key in self._matrices)
        step = self.plan.steps[key]
        if isinstance(step, Keep) and key not in self.added:
            return written
        taken = None
        if isinstance(step, Take) and self.line.nan == "error" and key not in self.added:
            taken = self.sources[step.source].entries[key]
        return remade(written, taken)

    def _repairs(self, key: str) -> bool:
        return key.endswith(POSITION_IDS) and self.line.position_ids != "skip"

    def _add_position_ids(self) -> None:
        """Write them for every text encoder, also where A has none, as some older tools want."""
        for key, entry in list(self.entries.items()):
            name = f"{key.removesuffix(EMBEDDING)}{POSITION_IDS}"
            if key.endswith(EMBEDDING) and name not in self.entries:
                self.entries[name] = Entry(torch.int64, (1, entry.shape[0]))
                self.plan.steps[name] = Keep("not a weight to average")
                self.report.remark(f"{name} was missing: written as 0, 1, 2, ...")

    def _bake(self, vae: Checkpoint) -> None:
        for name, tensor in baked(vae, self.sources[0]).items():
            self.entries[name] = written_as(self.line.dtype, VAE_PART, tensor.entry)
            self.baked[name] = (vae, tensor.key)
        self.report.remark(f"VAE baked in from {vae.name}: {len(self.baked)} tensors")

    def _remark(self) -> None:
        """Markers that the sources disagree on, what is quantised, and tensors without a moving average."""
        first = self.sources[0]
        self.report.remarks += remarks([source.entries for source in self.sources], self.entries)
        self.report.warnings += unused(self.line.dtype, self.entries.values())
        for number, other in enumerate(self.sources[1:], start=1):
            for key in MARKERS:
                if (key in first.entries) != (key in other.entries):
                    having, lacking = ("A", letter(number)) if key in first.entries else (letter(number), "A")
                    self.report.remark(
                        f"{having} has the marker {key}, {lacking} does not: the result is of A's kind"
                    )
        for number, source in enumerate(self.sources):
            if isinstance(source, EmaSwapped) and source.lacking:
                self.report.remark(
                    f"{letter(number)} has no moving average of {len(source.lacking)} tensors: their weights are read"
                )

    def prepare(self, tick: Tick = lambda done: None) -> None:
        """Methods that measure the whole model first do so here; ``tick`` is told the bytes looked at."""
        for line in lines_below(self):
            if isinstance(line, MergedCheckpoint):
                line._survey(tick)

    def _survey(self, tick: Tick) -> None:
        method, measures = self.method, []
        for key in self.plan.measured() if method.survey else ():
            shape = self.entries[key].shape
            if method.survey and shape and self.entries[key].numel:
                a, b = (evaluate(Read(source, key)).view(shape) for source in self.sources[:2])
                measures.append(method.survey(a, b))
                tick(self.entries[key].nbytes)
        if measures and method.conclude:
            self.plan.options = {**self.plan.options, **method.conclude(measures)}

    def divisible(self, key: str) -> bool:
        return self._divisible[key]

    def _is_divisible(self, key: str) -> bool:
        if self._repairs(key):
            return False
        if key in self.baked:
            vae, inner = self.baked[key]
            return vae.divisible(inner)
        if key in self.added:
            return False
        step = self.plan.steps[key]
        if isinstance(step, Blend) and (step.channels or not self.method.elementwise):
            return False
        return all(need.source.divisible(need.key) for need in self.needs(key, 0, None))

    def stored(self, key: str) -> Stored | None:
        """A's own bytes where nothing is done to them; what comes from another model is read and looked at."""
        return self._stored[key]

    def _stored_bytes(self, key: str) -> Stored | None:
        first = self.sources[0]
        changed = key in self.baked or key in self.added or self._repairs(key)
        if changed or not isinstance(self.plan.steps[key], Keep):
            return None
        return first.stored(key) if first.entries[key].dtype == self.entries[key].dtype else None

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        return evaluate(Read(self, key, start, stop))

    def needs(self, key: str, start: int, stop: int | None) -> list[Read]:
        if key in self.baked:
            vae, inner = self.baked[key]
            return [Read(vae, inner, start, stop)]
        first, step = Read(self.sources[0], key, start, stop), self.plan.steps[key]
        if self._repairs(key):
            return [Read(self.sources[0], key)] if key in self.sources[0].entries else []
        if isinstance(step, Keep):
            return [first]
        if isinstance(step, Take):
            taken = first._replace(source=self.sources[step.source])
            return [taken, first] if self.line.nan == "keep_a" and key in self.sources[0].entries else [taken]
        if step.channels or not self.method.elementwise:
            return [Read(source, key) for source in self.sources]
        return [first._replace(source=source) for source in self.sources]

    def compute(self, key: str, start: int, stop: int | None, given: Sequence[Tensor]) -> Tensor:
        entry = self.entries[key]
        if key in self.baked:
            vae, _ = self.baked[key]
            return self._checked(given[0].to(entry.dtype), given, [vae.name], key)
        if self._repairs(key):
            return self._position_ids(key, given)
        step = self.plan.steps[key]
        if key in self.added:
            return self._with_loras(step, given, key)
        if isinstance(step, Keep):
            return given[0].to(entry.dtype)  # A's own bits, whatever they are
        if isinstance(step, Take):
            names = [self.sources[step.source].name]
            return self._checked(given[0].to(entry.dtype), given[:1], names, key, *given[1:])
        names = [source.name for source in self.sources]
        if not self._divisible[key]:
            shapes = [source.entries[key].shape for source in self.sources]
            given = [tensor.view(shape) for tensor, shape in zip(given, shapes, strict=True)]
        if self.method.hides_nan:
            self._refuse_nan(given, names, key)
        out = self._blend(step, given, key, entry.dtype)
        return self._checked(out, given, names, key, given[0]).reshape(-1)

    def _blend(self, step: Blend, tensors: Sequence[Tensor], key: str, dtype: torch.dtype) -> Tensor:
        seed, options = self.plan.seed_of(key), self.plan.options
        if not step.channels:
            return self.method.blend(tensors, step.ratios, options, seed=seed, dtype=dtype)
        out = tensors[0].to(dtype, copy=True)
        shared = [tensor[:, : step.channels] for tensor in tensors]
        out[:, : step.channels] = self.method.blend(shared, step.ratios, options, seed=seed, dtype=dtype)
        return out

    def _with_loras(self, step: Step, given: Sequence[Tensor], key: str) -> Tensor:
        """What the line makes of its models, plus its LoRAs, in float32 and rounded once; the whole tensor."""
        sources = self.sources
        if not isinstance(step, Blend):
            sources = [sources[step.source if isinstance(step, Take) else 0]]
        tensors = [one.view(source.entries[key].shape) for one, source in zip(given, sources, strict=False)]
        names = [source.name for source in sources]
        self._refuse_nan(tensors, names, key)
        if isinstance(step, Blend):
            out = self._blend(step, tensors, key, torch.float32)
        else:
            out = tensors[0].to(torch.float32, copy=True)
        for lora in self.added[key]:
            out = lora.apply(key, out)
        a = given[-1] if isinstance(step, Take) else given[0]
        return self._checked(out.to(self.entries[key].dtype), tensors, names, key, a.view(out.shape)).reshape(
            -1
        )

    def _position_ids(self, key: str, given: Sequence[Tensor]) -> Tensor:
        """0, 1, 2, ... as integers: merges by other tools left fractions or half floats here."""
        right = torch.arange(self.entries[key].numel)
        if given and (given[0].dtype != torch.int64 or not torch.equal(given[0], right)):
            self.report.remark(
                f"{key} was {given[0].dtype} with wrong or rounded values: reset to 0, 1, 2, ..."
            )
        return right

    def _refuse_nan(self, given: Sequence[Tensor], names: Sequence[str], key: str) -> None:
        """An error where a source holds NaN or infinity, unless A's values are to stay there."""
        for tensor, name in zip(given, names, strict=True):
            if self.line.nan != "keep_a" and not all_finite(tensor):
                raise MergeError(
                    f"{name}: {key} holds NaN or infinity. Repair the file, or use nan=keep_a to keep A's values there."
                )

    def _checked(
        self, out: Tensor, given: Sequence[Tensor], names: Sequence[str], key: str, a: Tensor | None = None
    ) -> Tensor:
        """NaN and infinity in a source are an error (or A's value stays); those made by rounding are counted."""
        if not out.is_floating_point() or all_finite(out):
            return out
        self._refuse_nan(given, names, key)
        bad = ~out.float().isfinite()
        for number, tensor in enumerate(given):
            wrong = 0 if a is None else int((~tensor.float().isfinite()).sum())
            if wrong:
                place = letter(number if len(given) > 1 else self._taken(key))
                self.report.add_elements(f"NaN or infinity in {place}, A's values kept", key, wrong)
        if a is not None and not all(map(all_finite, given)):
            return torch.where(bad, a.to(torch.float32), out.to(torch.float32)).to(out.dtype)
        over = f"overflowed {str(out.dtype).removeprefix('torch.')}"
        self.report.add_elements(over, key, int(bad.sum()))
        return out

    def _taken(self, key: str) -> int:
        step = self.plan.steps.get(key)
        return step.source if isinstance(step, Take) else 0
