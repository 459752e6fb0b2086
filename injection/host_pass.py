"""Around one call of the model: takes the injections out of its arguments and works out their contexts."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from .entries import InjectionError
from .host_carry import KEY, PASS_KEY, Run
from .host_layers import POOLED, Call, UNetLayers
from .host_transformers import layers_of
from .passes import Chunk, Pass


def apply_model(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """The wrapper: the layers find their contexts in the options, and our patch is the first of all.

    Conditioning hooks put their patches in front of the model's, in every pass anew; so ours is moved here.
    """
    carried = kwargs.pop(KEY, None)
    options = dict(transformer_options or {})
    options[PASS_KEY] = None
    if carried is None or not any(chunk.mixes for chunk in carried.chunks):
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    model = executor.class_obj
    layers = layers_of(model)
    tokens = layers.batched(c_crossattn, kwargs)
    assert tokens is not None  # an injection acts on conditionings that have some
    current = _begin_pass(model, layers, carried.chunks, x, tokens, options, kwargs)
    options[PASS_KEY] = current
    if c_crossattn is not None:
        c_crossattn = current.context
    with ExitStack() as stack:
        layers.enter(Call(options, model, kwargs, stack), current)
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def _begin_pass(
    model: Any,
    layers: UNetLayers,
    chunks: Sequence[Chunk],
    x: Tensor,
    tokens: Tensor,
    options: dict[str, Any],
    given: Mapping[str, Any],
) -> Pass:
    """The contexts to inject, and beside them the context as the blocks would see it."""
    run = options.get(KEY) or Run()
    chunks = _chunks_of_rows(chunks, x, tokens, options, run)
    window, dtype = options.get("context_window"), model.get_dtype_inference()
    temporal = "num_video_frames" in given  # such a U-Net has layers that see rows over time

    def begun(chunks: Sequence[Chunk], tokens: Tensor) -> Pass:
        source = comfy.model_management.cast_to_device(tokens, x.device, tokens.dtype)
        context = source if not source.is_floating_point() else source.to(dtype)
        return Pass(chunks, context, source, lambda one: _frames(run.to(one, x.device), window), temporal)

    current = begun(chunks, tokens)
    for name in chunks[0].beside:
        part = given[name].unsqueeze(-1) if name in layers.masks else given[name]
        current.beside[name] = begun([chunk.beside[name] for chunk in chunks], part)
    pooling = current if layers.pools == "" else current.beside.get(layers.pools or "")
    if pooling is not None and POOLED in pooling.ready:
        current.pooled = pooling.ready[POOLED][0]
    return current


def _chunks_of_rows(
    chunks: Sequence[Chunk], x: Tensor, context: Tensor, options: dict[str, Any], run: Run
) -> Sequence[Chunk]:
    """The chunks as the rows have them: once, or for every tile where a wrapper runs copies of the batch."""
    rows, order = sum(chunk.rows for chunk in chunks), options.get("cond_or_uncond")
    tiles, left = divmod(x.shape[0], rows)
    agree = not left and context.shape[0] == x.shape[0] and (order is None or len(order) % len(chunks) == 0)
    if agree and tiles > 1 and (rows, tiles) not in run.copies:
        agree = all(torch.equal(one, context[:rows]) for one in context.split(rows))
        run.copies.add((rows, tiles))
    if not agree:
        raise InjectionError(
            f"A node changes the batch that this model evaluates: {x.shape[0]} rows of latents and "
            f"{context.shape[0]} of text, where the conditionings make {rows}. Which rows belong to which prompt is "
            "not known, so block prompts cannot be used with it. Remove that node, or set its batch size to 1."
        )
    return [*chunks] * tiles


def _frames(prompts: Tensor, window: Any) -> Tensor:
    """Of prompts per frame, those of the frames in a context window; any others as they are."""
    if window is None or window.dim != 0 or prompts.shape[0] != window.total_frames:
        return prompts
    return window.get_tensor(prompts, prompts.device)
