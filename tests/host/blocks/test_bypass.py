"""A bypassed block passes its input on, on core's own classes."""

import pytest
import torch
from blockwork.blocks.bypass import last_layers
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import BlockError, layout_of
from blockwork.tests.support import networks, tiny

# Blocks that do more than add to their input.
REFUSED = {
    "SD1": {"IN00", "IN03", "IN06", "IN09"},
    "SDXL": {"IN00", "IN03", "IN06"},
    "SDXL refiner": {"IN00", "IN03", "IN06", "IN09"},
    "KOALA 700M": {"IN00", "IN02", "IN04"},
    "Chroma Radiance": {f"N{i:02}" for i in range(4)},
    "Wan VACE": {f"VACE{i:02}" for i in range(15)},
    "Wan S2V": {f"INJECTOR_ADAIN{i:02}" for i in range(12)},
    "WanDancer": {"MUSIC_ENCODER00", "MUSIC_ENCODER01"},
    "TripoSplat": {
        *(f"REPO{i:02}" for i in range(24)), *(f"{kind}_REPO0{i}" for kind in ("NOISE", "CONTEXT") for i in range(2)),
    },
}  # fmt: skip


def tensors(values) -> list[torch.Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(values, torch.Tensor):
        return [values]
    values = values.values() if isinstance(values, dict) else values
    return (
        [t for value in values for t in tensors(value)]
        if isinstance(values, (list, tuple, type({}.values())))
        else []
    )


def silence(network: torch.nn.Module, keys) -> None:
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for key in keys:
            parameters[key.removeprefix("diffusion_model.")].zero_()


def around(
    module: torch.nn.Module, network, *args, **kwargs
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What goes into a module and what comes out of it while the network runs."""
    went: list[torch.Tensor] = []
    came: list[torch.Tensor] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda _, given, named: went.extend(t.clone() for t in tensors([given, named])), with_kwargs=True
        ),
        module.register_forward_hook(lambda _, given, out: came.extend(t.clone() for t in tensors([out]))),
    ]
    with torch.no_grad():
        network(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return went, came


@pytest.mark.parametrize("name", tiny.CHANGES)
def test_a_bypassed_block_of_a_transformer_passes_its_input_on(name):
    network = tiny.build(name, seed=1)
    keys = [f"diffusion_model.{key}" for key in network.state_dict()]
    layout = layout_of(keys)
    values = tiny.inputs(name)
    for stack in layout.stacks:
        if stack.letter == "G":
            continue  # a block of Chroma's guidance, whose input is also normalised for the branch
        block = stack.blocks[0]
        module = network.get_submodule(f"{stack.title}.0")
        went, came = around(module, network, **values)
        if not came:
            assert (name, stack.letter) == ("OmniGen2", "RR")  # runs with reference images only
            continue
        assert not all(any(torch.equal(out, given) for given in went) for out in came), block
        silenced = tiny.build(name, seed=1)
        silence(silenced, last_layers(keys, layout, [block])[block])
        went, came = around(silenced.get_submodule(f"{stack.title}.0"), silenced, **values)
        for out in came:
            assert any(out.shape == given.shape and torch.equal(out, given) for given in went), (name, block)


@pytest.mark.parametrize(
    "family, blocks",
    [("SD15", ["M00", "IN02", "OUT04", "OUT05"]), ("SDXL", ["M00", "IN05", "IN08", "OUT01"])],
)
def test_a_bypassed_block_of_a_unet_passes_its_input_or_its_skip_on(build, family, blocks):
    for block in blocks:
        network = build(family, 1).model.diffusion_model
        keys = [f"diffusion_model.{key}" for key in network.state_dict()]
        layout = layout_of(keys)
        silence(network, last_layers(keys, layout, [block])[block])
        side = {"I": "input_blocks.", "O": "output_blocks.", "M": "middle_block"}[block[0]]
        module = network.get_submodule(side + (str(int(block[-2:])) if block[0] != "M" else ""))
        x = torch.randn(1, 4, 16, 16)
        context = torch.randn(1, 7, 768 if family == "SD15" else 64)
        y = None if family == "SD15" else torch.randn(1, 96)
        for child in module:
            went, came = around(child, network, x, torch.tensor([3.0]), context, y=y)
            if type(child).__name__ == "Upsample":
                continue
            expected = went[0]
            skip = getattr(child, "skip_connection", None)
            with torch.no_grad():
                expected = skip(expected) if skip is not None else expected
            assert torch.equal(came[0], expected), (block, type(child).__name__)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_each_block_of_each_model_is_bypassed_or_refused_by_name(name):
    keys = networks.keys(name)
    layout = layout_of(keys)
    refused = REFUSED.get(name, set())
    found = last_layers(keys, layout, [block for block in layout.blocks if block not in refused])
    for block, silenced in found.items():
        assert silenced and all(key.endswith((".weight", ".bias")) for key in silenced)
        assert all(block_of(key, layout) == block for key in silenced)
    for block in refused:
        with pytest.raises(BlockError, match=f"^{block} cannot be bypassed: "):
            last_layers(keys, layout, [block])
