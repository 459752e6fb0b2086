"""Around one call of the model: takes the injections out of its arguments and works out their contexts."""

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from .entries import InjectionError
from .host_carry import KEY, PASS_KEY, Run
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
    if carried is not None and c_crossattn is not None and any(chunk.mixes for chunk in carried.chunks):
        temporal = "num_video_frames" in kwargs  # such a U-Net has layers that see rows over time
        model = executor.class_obj
        c_crossattn, current = _begin_pass(model, carried.chunks, x, c_crossattn, options, temporal)
        options[PASS_KEY] = current
        layers_of(model).enter(options, model, current)
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def _begin_pass(
    model: Any, chunks: Sequence[Chunk], x: Tensor, context: Tensor, options: dict[str, Any], temporal: bool
) -> tuple[Tensor, Pass]:
    """The context as the blocks will see it, and the contexts to inject."""
    run = options.get(KEY) or Run()
    chunks = _chunks_of_rows(chunks, x, context, options, run)
    window = options.get("context_window")
    source = comfy.model_management.cast_to_device(context, x.device, context.dtype)
    context = comfy.model_management.cast_to_device(source, x.device, model.get_dtype_inference())
    return context, Pass(
        chunks, context, source, lambda tensor: _frames(run.to(tensor, x.device), window), temporal
    )


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
