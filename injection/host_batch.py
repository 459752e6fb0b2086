"""Around one evaluation of all conditionings: what acts now, in ComfyUI's terms.

Every conditioning gets the same kinds of ``model_conds``, so that none splits off. Where an injection brings its own
pooled embedding or a prompt for ControlNets, these follow it: same weight, same mode, same times.
"""

from collections.abc import Callable
from typing import Any

import comfy.conds
from torch import Tensor

from ..blocks.walk import SubBlock
from .conditioning import mixed_pooled
from .entries import InjectionError, Stretch
from .host_carry import KEY, CONDInjections, Run
from .host_layers import POOLED
from .host_transformers import layers_of
from .mixing import Mix, batch_rows, mixed
from .passes import Act, Chunk, Mixes, acting, mixes_of
from .timing import Clock


def calc_cond_batch(
    executor: Any,
    model: Any,
    conds: list[list[dict[str, Any]] | None],
    x_in: Tensor,
    timestep: Tensor,
    options: Any,
) -> Any:
    """The wrapper: conditionings with what acts at ``timestep``; untouched where none carries an injection."""
    carried = [entry["model_conds"].get(KEY) for cond in conds for entry in cond or ()]
    if all(one is None for one in carried):
        return executor(model, conds, x_in, timestep, options)
    transformer_options = options.get("transformer_options", {})
    run = transformer_options.get(KEY) or Run()
    levels = run.levels.setdefault(model.model_sampling, {})
    steps = transformer_options.get("sample_sigmas")
    clock = Clock(model.model_sampling.percent_to_sigma, steps, lambda: float(timestep.flatten()[0]), levels)
    batch = _Batch(model, x_in, run, clock)
    now = [[batch.acts(entry) for entry in cond or ()] for cond in conds]
    for_controlnets = any(act.injection.for_controlnet for acts in now for one in acts for act in one)
    levelled = [
        None
        if cond is None
        else [batch.levelled(entry, act, for_controlnets) for entry, act in zip(cond, acts, strict=True)]
        for cond, acts in zip(conds, now, strict=True)
    ]
    return executor(model, levelled, x_in, timestep, options)


class _Batch:
    def __init__(self, model: Any, x: Tensor, run: Run, clock: Clock):
        self.model, self.x, self.run, self.clock = model, x, run, clock
        self.layers = layers_of(model)

    def acts(self, entry: dict[str, Any]) -> list[Act]:
        """The injections of one conditioning that act now."""
        own, tokens = entry["model_conds"].get(KEY), self.layers.tokens(entry["model_conds"])
        return [] if own is None or tokens is None else acting(own.cond, self.clock)

    def levelled(self, entry: dict[str, Any], acts: list[Act], for_controlnets: bool) -> dict[str, Any]:
        """A copy of one conditioning that carries what acts now."""
        conds = dict(entry["model_conds"])
        own, tokens = conds.get(KEY) or CONDInjections(()), self.layers.tokens(conds)
        beside = {name: self._beside(conds, acts, name) for name in self.layers.beside if name in conds}
        self._check_beside(conds, acts)
        mixes = self._mixes(acts, lambda stretch: self._tokens(entry, own, stretch), pooled="")
        length = None if tokens is None else tokens.shape[1]
        conds[KEY] = own.with_chunk(Chunk(mixes, 1, length, self.layers.repeats, beside))
        if for_controlnets and tokens is not None:
            base = conds["crossattn_controlnet"].cond if "crossattn_controlnet" in conds else tokens
            conds["crossattn_controlnet"] = comfy.conds.CONDCrossAttn(self._for_controlnet(acts, base))
        timed = [act for act in acts if act.injection.pooled != "base" and not act.injection.always]
        if timed and self.layers.pooled_key in conds:
            conds[self.layers.pooled_key] = self._pooled(entry, own, timed)
        return {**entry, "model_conds": conds}

    def _mixes(
        self, acts: list[Act], tokens_of: Callable[[Stretch], Tensor], pooled: str, mask: bool = False
    ) -> dict[SubBlock, Mixes]:
        """Layer -> mixes, with those of the text that the model pools by itself where ``pooled`` names it."""
        found = mixes_of(acts, self.clock, tokens_of, mask)
        if acts and pooled == self.layers.pools:
            chosen = [act for act in acts if act.injection.pooled != "base"]
            shares = [act.injection.weight if act.injection.pooled == "lerp" else 1.0 for act in chosen]
            if chosen:
                found[POOLED] = tuple(
                    Mix("lerp", "kv", share, tokens_of(act.prompt))
                    for share, act in zip(shares, chosen, strict=True)
                )
        return found

    def _beside(self, conds: dict[str, Any], acts: list[Act], name: str) -> Chunk:
        """What acts on something that belongs to a prompt besides its tokens."""
        mask = name in self.layers.masks

        def read(stretch: Stretch) -> Tensor:
            found = self.layers.part_of(stretch, name)
            return found.unsqueeze(-1) if mask else found

        def part(stretch: Stretch) -> Tensor:
            return self.run.once((name, stretch), lambda: read(stretch))

        return Chunk(self._mixes(acts, part, name, mask), 1, conds[name].cond.shape[1], self.layers.repeats)

    def _check_beside(self, conds: dict[str, Any], acts: list[Act]) -> None:
        for name, option in self.layers.beside.items():
            if name not in conds and any(option in (act.prompt.options or {}) for act in acts):
                raise InjectionError(
                    f"The injected prompt comes with {option!r}, and the conditioning has none. Encode both with the "
                    "same CLIP."
                )

    def _tokens(self, entry: dict[str, Any], own: CONDInjections, stretch: Stretch) -> Tensor:
        """The tokens of a prompt as the model takes them, after its own preparation of a text."""
        if self.layers.plain_text:
            return stretch.tokens
        key = (stretch, tuple(entry.get(name) for name in ("seconds_start", "seconds_total")))
        return self.run.once(key, lambda: self._prepared(entry, own, stretch))

    def _prepared(self, entry: dict[str, Any], own: CONDInjections, stretch: Stretch) -> Tensor:
        swapped = {**entry, **(stretch.options or {}), "cross_attn": stretch.tokens}
        for name in ("t5xxl_ids", "t5xxl_weights", "attention_mask", "unprocessed_ltxav_embeds"):
            if name not in (stretch.options or {}):
                swapped.pop(name, None)
        made = self.model.extra_conds(**self._params(swapped, own))
        return self.layers.prepared(self.model, made, self.x.device)

    def _for_controlnet(self, acts: list[Act], base: Tensor) -> Tensor:
        """The prompt of a conditioning's ControlNets: its own, mixed with the injected ones as the blocks do."""
        for act in acts:
            one = act.injection
            if not one.for_controlnet:
                continue
            chosen = act.prompt.tokens if act.prompt.controlnet is None else act.prompt.controlnet
            minus = None if act.reference is None else act.reference.tokens.to(base)
            rows = max(base.shape[0], chosen.shape[0])
            base = mixed(Mix(one.mode, "kv", one.weight, chosen.to(base), minus), batch_rows(base, rows))
        return base

    def _pooled(self, entry: dict[str, Any], own: CONDInjections, acts: list[Act]) -> Any:
        """What the model makes of the pooled embedding while these injections act."""
        key = (own.cond, tuple((act.injection, act.prompt) for act in acts), entry.get("uuid"), self.x.shape)
        return self.run.once(key, lambda: self._encoded_pooled(entry, own, acts))

    def _encoded_pooled(self, entry: dict[str, Any], own: CONDInjections, acts: list[Act]) -> Any:
        pooled = entry.get("pooled_output")
        for act in acts:
            assert act.prompt.pooled is not None
            share = act.injection.weight if act.injection.pooled == "lerp" else 1.0
            pooled = mixed_pooled(pooled, act.prompt.pooled, share)
        made = self.model.extra_conds(**self._params({**entry, "pooled_output": pooled}, own))
        return made.get(self.layers.pooled_key, entry["model_conds"][self.layers.pooled_key])

    def _params(self, entry: dict[str, Any], own: CONDInjections) -> dict[str, Any]:
        """The arguments that ComfyUI gives ``extra_conds`` for a conditioning."""
        params = {key: value for key, value in entry.items() if key != "model_conds"}
        params |= {"device": self.x.device, "noise": self.x}
        if self.x.ndim >= 4:
            params.setdefault("width", self.x.shape[3] * 8)
        params.setdefault("height", self.x.shape[2] * 8)
        params.setdefault("prompt_type", own.side)
        return params
