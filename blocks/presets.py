"""The community's weight presets, from their closed forms, and files of the user's presets.

A preset is one share of model B per block, in MBW order. With x = i/24 (i/18 for SDXL), ss(v) = 3v^2 - 2v^3 and
tri the triangle wave that folds [0, inf) into [0, 1], the curves are those of bbc-mc's and supermerger's
tables (38 for SD1) and of model-mixer's (34 for SDXL). SDXL presets are not the SD1 curves resampled:
COSINE, RING08_5 and some others are other curves. All other layouts take the SD1 curves, stretched.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from .names import BlockError, Layout, as_layout
from .numbers import number

Curve = Callable[[float], float]
THIRDS = ("FIRST_THIRD", "MIDDLE_THIRD", "LAST_THIRD")
SHORTEST, LONGEST = 10, 2000  # numbers of a preset in a file


def preset(name: str, layout: "str | Layout" = "sd1") -> list[float]:
    """The values of a built-in preset: ``preset("GRAD_V")[0] == 1.0``. BlockError names the nearest ones.

    SD1 and SDXL have the tables of the community. On other layouts the curves are stretched over all blocks, in
    the order in which the model runs them.
    """
    shape = as_layout(layout)
    known = _presets(shape.name, len(shape.blocks))
    if name in known:
        return list(known[name])
    if name in THIRDS and shape.blocks:
        return list(_thirds(len(shape.blocks))[name])
    raise BlockError(f"Unknown preset {name[:80]!r} for {shape.name}.{_suggestion(name, known)}")


def names(layout: "str | Layout" = "sd1") -> list[str]:
    """Names of the built-in presets, in the order of the community's lists."""
    shape = as_layout(layout)
    return list(_presets(shape.name, len(shape.blocks)))


def load_file(path: Path, bad: dict[str, BlockError] | None = None) -> dict[str, list[float]]:
    """Presets of a user's file: lines ``name<TAB>v,...``, ``name:v,...`` or ``name,v,...``.

    A header line ``preset_name ...`` and blank or ``#`` lines are skipped. The count says for which models a line
    is (25 or 26 for SD1, 19 to 21 for SDXL, 57, 58 or 61 for Flux ...); BASE is first where there is one more. A
    bad line is a BlockError that names file and line: raised, or put into ``bad`` under the line's name.
    """
    found: dict[str, list[float]] = {}
    for place, line in enumerate(
        path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1
    ):
        text = line.strip()
        if not text or text.startswith(("#", "preset_name")):
            continue
        name, values = _split_line(text)
        try:
            found[name] = _preset_values(values)
        except ValueError as error:
            problem = BlockError(f"{path.name}, line {place}, preset {name[:80]!r}: {error}")
            if bad is None:
                raise problem from None
            bad[name] = problem
    return found


def _preset_values(text: str) -> list[float]:
    values = [value for value in text.split(",") if value.strip()]
    if not SHORTEST <= len(values) <= LONGEST:
        raise ValueError(
            f"{len(values)} numbers are given. Expected one per block, for example 25 or 26 (SD1), 19, 20 or 21 "
            "(SDXL), 57, 58 or 61 (Flux)."
        )
    return [number(value) for value in values]


def blend(first: Sequence[float], second: Sequence[float], amount: float) -> list[float]:
    """``(1 - amount) * first + amount * second``, value by value; BlockError when the lengths differ."""
    if len(first) != len(second):
        raise BlockError(
            f"Cannot blend {len(first)} weights with {len(second)}. Use lists of the same length."
        )
    return [(1 - amount) * a + amount * b for a, b in zip(first, second, strict=True)]


def scale(values: Sequence[float], factor: float = 1.0, offset: float = 0.0) -> list[float]:
    """``factor * value + offset``."""
    return [factor * value + offset for value in values]


def mirror(values: Sequence[float]) -> list[float]:
    """Reverse the order: IN00 and OUT11 change places, IN01 and OUT10, ..."""
    return list(reversed(values))


def invert(values: Sequence[float]) -> list[float]:
    """``1 - value``: the same merge with A and B exchanged."""
    return [1 - value for value in values]


def _split_line(text: str) -> tuple[str, str]:
    for separator in ("\t", ":", ","):
        name, found, values = text.partition(separator)
        if found:
            return name.strip(), values
    return text, ""


def _suggestion(name: str, known: Mapping[str, object]) -> str:
    import difflib

    near = difflib.get_close_matches(name[:80].upper(), known, n=3, cutoff=0.4)
    return (
        f" Did you mean {', '.join(near)}?" if near else f" Available: {', '.join(known)}." if known else ""
    )


@cache
def _presets(layout: str, count: int) -> dict[str, tuple[float, ...]]:
    if layout == "sd1":
        return _sd1()
    if layout == "sdxl":
        return _sdxl()
    return _stretched(count)


def _thirds(count: int) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(float(3 * i // count == third) for i in range(count)) for third, name in enumerate(THIRDS)
    }


def _stretched(count: int) -> dict[str, tuple[float, ...]]:
    """The SD1 presets on any number of blocks: curves in closed form, steps at the same share of the way."""
    if not count:
        return {}
    places = [i / (count - 1) if count > 1 else 0.0 for i in range(count)]
    curves = _curves()
    stretched = {}
    for name, values in _sd1().items():
        curve = curves.get(name, lambda x, steps=values: steps[round(x * 24)])
        stretched[name] = tuple(map(curve, places))
    return stretched | _thirds(count)


def _curves() -> dict[str, Curve]:
    """The presets of SD1 that are functions of x, the share of the way from the first to the last block."""
    fake = _hermite(25 / 6)
    curves: dict[str, Curve] = {
        "GRAD_A": lambda x: 1 - abs(1 - 2 * x),
        "FLAT_25": lambda x: 0.25,
        "FLAT_75": lambda x: 0.75,
        "SMOOTHSTEP": _ss,
        "COSINE": lambda x: (1 + math.cos(math.pi * x)) / 2,
        "FAKE_CUBIC_HERMITE": fake,
        "TRUE_CUBIC_HERMITE": lambda x: fake(x) + (1 - _ss(x)) / 24 if x else 0.0,
        "ALL_A": lambda x: 0.0,
    }
    for times in (2, 3, 4):
        curves[f"SMOOTHSTEP*{times}"] = lambda x, n=times: _tri(n * _ss(x))
        curves[f"SMOOTHSTEP/{times}"] = lambda x, n=times: _ss(_tri(n * x))
    for name, reverse in _REVERSED.items():
        curves[reverse] = lambda x, curve=curves[name]: 1 - curve(x)
    return curves


_REVERSED = {
    "GRAD_A": "GRAD_V",
    "SMOOTHSTEP": "REVERSE-SMOOTHSTEP",
    **{f"SMOOTHSTEP{mark}{times}": f"R_SMOOTHSTEP{mark}{times}" for mark in "*/" for times in (2, 3, 4)},
    "COSINE": "REVERSE_COSINE",
    "FAKE_CUBIC_HERMITE": "FAKE_REVERSE_CUBIC_HERMITE",
    "TRUE_CUBIC_HERMITE": "TRUE_REVERSE_CUBIC_HERMITE",
    "ALL_A": "ALL_B",
}


def _ss(v: float) -> float:
    return 3 * v**2 - 2 * v**3


def _tri(y: float) -> float:
    y = y % 2
    return y if y <= 1 else 2 - y


def _hermite(steepness: float) -> Curve:
    """Cubic Hermite from 0 to 1 with both end slopes ``steepness``."""
    return lambda x: steepness * (x**3 - 2 * x**2 + x) + _ss(x) + steepness * (x**3 - x**2)


def _sample(curve: Curve, count: int) -> tuple[float, ...]:
    return tuple(curve(i / (count - 1)) for i in range(count))


def _steps(count: int, **levels: tuple[int, ...]) -> tuple[float, ...]:
    """Zeros, with the named indices at 1 (``one``) or 0.5 (``half``)."""
    values = [0.0] * count
    for i in levels.get("half", ()):
        values[i] = 0.5
    for i in levels.get("one", ()):
        values[i] = 1.0
    return tuple(values)


def _reversed(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(1 - value for value in values)


def _common(count: int) -> dict[str, tuple[float, ...]]:
    """The presets that both layouts define by the same form."""
    half = (count - 1) // 2
    valley = tuple(abs(1 - i / half) for i in range(count))
    presets = {"GRAD_V": valley, "GRAD_A": _reversed(valley)}
    presets |= {"FLAT_25": (0.25,) * count, "FLAT_75": (0.75,) * count}
    for wrapped in (4, 6, 7, 8):
        ends = (*range(wrapped), *range(count - wrapped, count))
        presets[f"WRAP{2 * wrapped:02}"] = _steps(count, one=ends)
    return presets


def _smoothsteps(count: int) -> dict[str, tuple[float, ...]]:
    smooth = _sample(_ss, count)
    presets = {"SMOOTHSTEP": smooth, "REVERSE-SMOOTHSTEP": _reversed(smooth)}
    for times in (2, 3, 4):
        wave = tuple(_tri(times * value) for value in smooth)
        presets |= {f"SMOOTHSTEP*{times}": wave, f"R_SMOOTHSTEP*{times}": _reversed(wave)}
    for times in (2, 3, 4):
        wave = tuple(_ss(value) for value in _zigzag(times, count))
        presets |= {f"SMOOTHSTEP/{times}": wave, f"R_SMOOTHSTEP/{times}": _reversed(wave)}
    return presets


def _zigzag(times: int, count: int) -> tuple[float, ...]:
    """tri(times * x), its corners on whole blocks: 18 steps in four legs are 4, 5, 5 and 4."""
    if (count - 1) % times == 0:
        return tuple(_tri(times * i / (count - 1)) for i in range(count))
    rising = tuple(i / 4 for i in range(4)) + tuple(1 - i / 5 for i in range(6))
    return rising + rising[-2::-1]


def _sd1() -> dict[str, tuple[float, ...]]:
    n = 25
    presets = _common(n)
    presets["MID12_50"] = _steps(n, half=tuple(range(5, 19)))
    presets["OUT07"] = _steps(n, one=tuple(range(18, n)))
    presets["OUT12"] = _steps(n, one=tuple(range(13, n)))
    presets["OUT12_5"] = _steps(n, half=(12,), one=tuple(range(13, n)))
    presets["RING08_SOFT"] = _steps(n, half=(5, 9, 15, 19), one=(6, 7, 8, 16, 17, 18))
    presets["RING08_5"] = _steps(n, one=(*range(6, 10), *range(15, 19)))
    presets["RING10_5"] = _steps(n, one=(*range(5, 10), *range(15, 20)))
    presets["RING10_3"] = _steps(n, one=(*range(6, 11), *range(14, 19)))
    presets |= _smoothsteps(n)
    cosine = _sample(lambda x: (1 + math.cos(math.pi * x)) / 2, n)
    presets |= {"COSINE": cosine, "REVERSE_COSINE": _reversed(cosine)}
    fake = _sample(_hermite(25 / 6), n)
    smooth = presets["SMOOTHSTEP"]
    true = (0.0, *(f + (1 - s) / 24 for f, s in zip(fake[1:], smooth[1:], strict=True)))
    presets |= {"TRUE_CUBIC_HERMITE": true, "TRUE_REVERSE_CUBIC_HERMITE": _reversed(true)}
    presets |= {"FAKE_CUBIC_HERMITE": fake, "FAKE_REVERSE_CUBIC_HERMITE": _reversed(fake)}
    presets |= {"ALL_A": (0.0,) * n, "ALL_B": (1.0,) * n}
    return presets


def _sdxl() -> dict[str, tuple[float, ...]]:
    n = 19
    presets = _common(n)
    presets["MID12_50"] = _steps(n, half=tuple(range(3, 16)))
    presets["OUT07"] = _steps(n, one=tuple(range(12, n)))
    presets["OUT09"] = _steps(n, one=tuple(range(10, n)))
    presets["OUT09_5"] = _steps(n, half=(9,), one=tuple(range(10, n)))
    presets["RING08_SOFT"] = _steps(n, half=(2, 6, 12, 16), one=(3, 4, 5, 13, 14, 15))
    presets["RING08_5"] = _steps(n, one=tuple(range(6, 13)))
    presets["RING10_5"] = _steps(n, one=(*range(2, 7), *range(12, 17)))
    presets["RING10_3"] = _steps(n, one=(*range(3, 8), *range(11, 16)))
    presets |= _smoothsteps(n)
    cosine = tuple((1 + math.cos(math.pi * value)) / 2 for value in _zigzag(4, n))
    presets |= {"COSINE": cosine, "REVERSE_COSINE": _reversed(cosine)}
    hermite = _sample(_hermite(50 / 9), n)
    presets |= {"CUBIC_HERMITE": hermite, "REVERSE_CUBIC_HERMITE": _reversed(hermite)}
    return presets
