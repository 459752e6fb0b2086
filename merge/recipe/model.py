"""A recipe as data: lines, variables, notes, pins. ``grammar`` reads and writes it as text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("same", "fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "fp8_scaled"),
    "key_map": ("mbw", "supermerger", "mecha", "comfy"),
    "ema": ("keep", "drop", "swap"),
    "prune": ("no", "yes"),
    "position_ids": ("auto", "skip", "reset"),
    "extra_keys": ("ignore", "copy"),
    "nan": ("error", "keep_a"),
}
LINE_REFERENCE = re.compile(r"__O([0-9]{1,6})__\Z")
VARIABLE = re.compile(r"__(?!O[0-9]+__\Z)\w+__\Z")


@dataclass(frozen=True)
class LoraTerm:
    """A LoRA that a line adds: the name of its file, its strength, its block weights."""

    name: str
    strength: float = 1.0
    weights: str = "1"

    @property
    def pin(self) -> str:
        """The name under which a recipe keeps the hash of the file."""
        return f"lora({self.name})"


@dataclass(frozen=True)
class Line:
    """One merge: ``output = models[0] + models[1] + ...`` by ``method``; the next lines may use its result.

    ``loras`` are added to what the method makes of the models.
    ``ratios`` are weight texts by ratio name, ``options`` numbers of the method; every other field is one of
    ``CHOICES`` (its first value is the default), a model name (``vae``) or text.
    """

    output: str
    models: tuple[str, ...]
    method: str = "weighted_sum"
    ratios: tuple[tuple[str, str], ...] = (("alpha", "0.5"),)
    options: tuple[tuple[str, float], ...] = ()
    elemental: str = ""
    seed: int = 0
    vae: str = ""
    dtype: str = "same"
    key_map: str = "mbw"
    ema: str = "keep"
    prune: str = "no"
    position_ids: str = "auto"
    extra_keys: str = "ignore"
    nan: str = "error"
    loras: tuple[LoraTerm, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Lines in the order they run, variables bound to files, notes on variables, hashes of files."""

    lines: tuple[Line, ...]
    variables: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    pins: tuple[tuple[str, str], ...] = ()

    def sources(self) -> tuple[str, ...]:
        """Names of the files (or free variables) the lines read, in order of first use."""
        bound = dict(self.variables)
        names: dict[str, None] = {}
        for line in self.lines:
            for name in (*line.models, *([line.vae] if line.vae else [])):
                if not LINE_REFERENCE.match(name):
                    names[bound.get(name, name)] = None
        return tuple(names)

    def loras(self) -> tuple[LoraTerm, ...]:
        """The LoRAs that the lines add, with their files' names, in order of first use."""
        bound = dict(self.variables)
        terms = (term for line in self.lines for term in line.loras)
        return tuple(dict.fromkeys(replace(term, name=bound.get(term.name, term.name)) for term in terms))

    def free(self) -> tuple[str, ...]:
        """Variables that no file is bound to yet."""
        names = (*self.sources(), *(term.name for term in self.loras()))
        return tuple(dict.fromkeys(name for name in names if VARIABLE.match(name)))

    def bind(self, files: Mapping[str, str]) -> "Recipe":
        """The recipe with variables bound to files: ``recipe.bind({"__SD15__": "sd15.safetensors"})``."""
        named = {
            name if VARIABLE.match(name) else f"__{name.strip('_')}__": file for name, file in files.items()
        }
        return replace(self, variables=tuple({**dict(self.variables), **named}.items()))

    def pinned(self, hashes: Mapping[str, str]) -> "Recipe":
        """The recipe with the sha256 of its files."""
        return replace(self, pins=tuple({**dict(self.pins), **hashes}.items()))
