"""The published algorithm, written straightforwardly: the whole sequence is computed again for every row.

Independent of the pack: plain functions over a state dict, one per family, in the shapes and the order of
work of the published inference code: a full 77-row buffer for T, growing sequences for VT and Mvt, one cell
call per row for the LSTMs, embedding terms computed in every step, one unit after the other. The tests use
it as the reference, the benchmark too.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Row = tuple[Tensor, Any]  # the next row ``b 1 d`` and what the family carries along


def generate(state: State, config: dict[str, Any], embeds: Tensor, fuse: float = 0.0) -> Tensor:
    """Hidden states ``b 77 d`` of the pooled embeddings ``b d``."""
    units = config.get("ensemble_size", 1)
    step = _family(state, config)
    own = [embeds.new_zeros(len(embeds), 0, embeds.shape[1]) for _ in range(units)]
    made = []
    carried: list[Any] = [None] * units
    for _ in range(config.get("max_position_embeddings", 77) - 1):
        last = []
        for unit in range(units):
            row, carried[unit] = step(state, config, unit, embeds, own[unit], carried[unit])
            last.append(row)
        mean = sum(last) / units
        made.append(mean)
        own = [
            torch.cat([past, (1 - fuse) * row + fuse * mean], 1) for past, row in zip(own, last, strict=True)
        ]
    start = state["sos_embed"].view(1, 1, -1).repeat(len(embeds), 1, 1)
    return torch.cat([start, *made], dim=1)


def _family(state: State, config: dict[str, Any]) -> Callable:
    if any(key.startswith("encoder_layer.") for key in state):
        return transformer
    if "models.0.norm.weight" in state:
        return mvt
    if "self_attn.0.q_proj.weight" in state:
        return vt
    if any(key.startswith("model2.") for key in state):
        return vrnn
    if "linear2.0.weight" in state:
        return vicinity
    return lstm3 if config.get("use_model3") else lstm2 if config.get("use_model2") else lstm1


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def _gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _attention(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    batch, length, dim = x.shape
    shape = (batch, length, heads, dim // heads)
    query = _linear(state, f"{name}.q_proj", x) * (dim // heads) ** -0.5
    key, value = _linear(state, f"{name}.k_proj", x), _linear(state, f"{name}.v_proj", x)
    query, key, value = (part.view(shape).transpose(1, 2) for part in (query, key, value))
    mask = torch.full((length, length), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)
    weights = torch.softmax(query @ key.transpose(-1, -2) + mask, dim=-1)
    return _linear(state, f"{name}.out_proj", (weights @ value).transpose(1, 2).reshape(batch, length, dim))


def transformer(
    state: State, config: dict, unit: int, e: Tensor, rows: Tensor, _: Any
) -> tuple[Tensor, None]:
    """Layouts v1 (no null row), v3 (relative to it) and v5 (an MLP in the first slot)."""
    u = f".{unit}" if config.get("ensemble_size", 1) > 1 else ""
    total, made = config.get("max_position_embeddings", 77), rows.shape[1]
    e = e[:, None]
    if "null_embed" in state:
        null = state["null_embed"].expand_as(e)
        first = null
        if config.get("apply_mlp_to_input"):
            hidden = _gelu(_linear(state, f"mlp_to_input{u}.fc1", e - null))
            first = _linear(state, f"mlp_to_input{u}.fc2", hidden)
        slots = [first, e - null, rows - null]
    else:
        slots = [e, state["sos_embed"].expand_as(e), rows]
    slots = torch.cat(slots, dim=1)[:, :total]
    x = F.pad(slots, (0, 0, 0, total - slots.shape[1])) + state[f"position_embedding{u}.weight"]
    layer = f"encoder_layer{u}"
    x = x + _attention(
        state, f"{layer}.self_attn", _norm(state, f"{layer}.layer_norm1", x), config["num_attention_heads"]
    )
    hidden = _gelu(_linear(state, f"{layer}.mlp.fc1", _norm(state, f"{layer}.layer_norm2", x)))
    x = x + _linear(state, f"{layer}.mlp.fc2", hidden)
    return _norm(state, f"final_layer_norm{u}", x)[:, made + 1 : made + 2], None


def _window(x: Tensor, size: int) -> list[Tensor]:
    return [F.pad(x, (0, 0, back, 0))[:, : x.shape[1]] for back in range(size)]


def vt(state: State, config: dict, unit: int, e: Tensor, rows: Tensor, _: Any) -> Row:
    """Family VT with its default flags."""
    e = (e - state["null_embed"])[:, None]
    states = F.pad(rows - state["null_embed"], (0, 0, 1, 0))
    length = states.shape[1]
    placed = states + state[f"position_embedding.{unit}.weight"][:length]
    attended = _attention(
        state, f"self_attn.{unit}", _norm(state, f"norm.{unit}", placed), config["num_attention_heads"]
    )
    near = torch.cat([e.repeat(1, length, 1), *_window(states, config.get("vicinity", 2))], dim=2)
    near = _gelu(_linear(state, f"linear1.{unit}", near))
    x = _linear(state, f"linear2.{unit}", torch.cat([attended, near], dim=2)) + states
    for k in range(config.get("num_mlp_layers", 1)):
        name = f"mlp_layers.{unit}.{k}"
        x = x + _linear(
            state,
            f"{name}.linear2",
            _gelu(_linear(state, f"{name}.linear1", _norm(state, f"{name}.norm", x))),
        )
    return _norm(state, f"final_norm.{unit}", x)[:, -1:], None


def mvt(state: State, config: dict, unit: int, e: Tensor, rows: Tensor, _: Any) -> Row:
    """Family Mvt with its default flags."""
    model = f"models.{unit}"
    normed = _norm(state, f"{model}.norm", torch.cat([e[:, None], rows], dim=1))
    embed, states = normed[:, :1], normed[:, 1:]
    x = torch.cat([embed, torch.zeros_like(embed), states], dim=1)
    length = x.shape[1]
    x = x + state[f"{model}.position_embedding.weight"][:length]
    padded = F.pad(states, (0, 0, 2, 0))
    near = torch.cat([embed.repeat(1, length, 1), *_window(padded, config.get("vicinity", 2))], dim=2)
    for k in range(config.get("num_vt_layers", 1)):
        name = f"{model}.layers.{k}"
        x = x + _attention(state, f"{name}.attn", x, config["num_attention_heads"])
        x = x + _linear(state, f"{name}.vicinity.linear", near)
        hidden = _gelu(_linear(state, f"{name}.mlp.linear1", _norm(state, f"{name}.mlp.norm", x)))
        x = _norm(state, f"{name}.norm", x + _linear(state, f"{name}.mlp.linear2", hidden))
    return x[:, -1:], None


def vicinity(state: State, config: dict, unit: int, e: Tensor, rows: Tensor, _: Any) -> Row:
    """Family V with its default flags."""
    null, size = state["null_embed"], config.get("vicinity", 3)
    past = F.pad(rows - null, (0, 0, size, 0))[:, -size:].flip(1)
    x = _linear(state, f"linear1.{unit}", torch.cat([(e - null)[:, None], past], dim=1).flatten(1))
    x = _linear(state, f"linear2.{unit}", _gelu(x))
    for k in range(config.get("num_mlp_layers", 1)):
        name = f"mlp_layers.{unit}.{k}"
        hidden = _gelu(_linear(state, f"{name}.linear1", _stored_norm(state, f"{name}.norm", x)))
        x = _linear(state, f"{name}.linear2", hidden)
    return _stored_norm(state, f"final_norm.{unit}", x)[:, None], None


def _stored_norm(state: State, name: str, x: Tensor) -> Tensor:
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts, eps=1e-5)


def vrnn(state: State, config: dict, unit: int, e: Tensor, rows: Tensor, _: Any) -> Row:
    """Family VRNN with one row before, of type linear or mlp."""
    model, x = ("model2.impl", rows[:, -1]) if rows.shape[1] else ("model1.impl", e)
    if f"{model}.fc.weight" in state:
        x = _linear(state, f"{model}.fc", x)
    else:
        x = _linear(state, f"{model}.fc2", _gelu(_linear(state, f"{model}.fc1.0", x)))
    return _norm(state, "final_norm", x)[:, None], None


def _cell(
    state: State, name: str, x: Tensor, hidden: Tensor, context: Tensor, suffix: str = ""
) -> list[Tensor]:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return list(torch.lstm_cell(x, [hidden, context], *(state[f"{name}.{part}{suffix}"] for part in names)))


def lstm1(state: State, config: dict, unit: int, e: Tensor, rows: Tensor, carried: Any) -> Row:
    """LSTM model 1: plain, or with ``use_extra`` and ``use_out_proj``."""
    model = f"models.{unit}"
    x = rows[:, -1] if rows.shape[1] else torch.zeros_like(e)
    hidden, context = carried or (e, torch.zeros_like(e))
    hidden, context = _cell(state, f"{model}.lstm", x, hidden, context, "_l0")
    y = _linear(state, f"{model}.out_proj", hidden) if config.get("use_out_proj") else hidden
    y = y + x
    if config.get("use_extra"):
        y = y + (e + _linear(state, f"{model}.embed_proj", e))
    return _norm(state, f"{model}.final_norm", y)[:, None], (hidden, context)


def lstm2(state: State, config: dict, unit: int, e: Tensor, rows: Tensor, carried: Any) -> Row:
    """LSTM model 2 with its default flags."""
    model = f"models.{unit}"
    x = rows[:, -1] if rows.shape[1] else torch.zeros_like(e)
    hidden, context = carried or (e, torch.zeros_like(e))
    hidden, context = _cell(state, f"{model}.lstm", x, hidden, context)
    context, hidden = _norm(state, f"{model}.c_norm", context), _norm(state, f"{model}.h_norm", hidden)
    made = hidden + x
    y = _linear(state, f"{model}.lstm_linear", made) + made
    y = y + (_linear(state, f"{model}.embed_linear", e) + e)
    return _norm(state, f"{model}.final_norm", y)[:, None], (hidden, context)


def lstm3(state: State, config: dict, unit: int, e: Tensor, rows: Tensor, carried: Any) -> Row:
    """LSTM model 3: the initial, information-keeping, wide and MLP variants."""
    x = rows[:, -1] if rows.shape[1] else torch.zeros_like(e)
    carried = list(carried or [None] * config["num_layers"])
    for k in range(config["num_layers"]):
        x, carried[k] = _lstm3_layer(state, config, f"models.{unit}.layers.{k}", e, x, carried[k])
    return _norm(state, f"models.{unit}.final_norm", x)[:, None], carried


def _lstm3_layer(
    state: State, config: dict, name: str, e: Tensor, x: Tensor, carried: Any
) -> tuple[Tensor, Any]:
    wide = config.get("lstm_hidden_size", 0) > 0
    if carried is None:
        start = _linear(state, f"{name}.h0_linear", e) if wide else e
        carried = start, torch.zeros_like(start), start
    hidden, context, start = carried
    hidden, context = _cell(state, f"{name}.lstm", _norm(state, f"{name}.x_norm", x), hidden, context)
    context, hidden = _norm(state, f"{name}.c_norm", context), _norm(state, f"{name}.h_norm", hidden)
    if config.get("x_residual", True):
        hidden = hidden + x
    if config.get("h0_residual"):
        hidden = hidden + start
    out = hidden + x if config.get("x_out_residual") else hidden
    embed = _linear(state, f"{name}.embed_linear", e) + e
    made = _linear(state, f"{name}.lstm_linear", out)
    if config.get("use_mlp"):
        y = _linear(state, f"{name}.mlp_linear", _gelu(torch.cat([embed, made], dim=1))) + (
            x if wide else out
        )
        return y, (hidden, context, start)
    if f"{name}.states_linear.weight" in state:
        residual = _linear(state, f"{name}.states_linear", x)
    else:
        residual = x if wide else out
    y = made + residual + embed
    if config.get("additional_mlp"):
        y = y + _linear(state, f"{name}.mlp_linear2", _gelu(_linear(state, f"{name}.mlp_linear1", y)))
    return y, (hidden, context, start)
