"""The configuration of an IF U-Net, derived from the shapes of its tensors; no config file is needed."""

from collections.abc import Mapping
from dataclasses import dataclass

from .keys import DIFFUSERS_MARK, KeysError, Layout

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class UNetConfig:
    """Hyper-parameters of an IF U-Net, level 0 being the finest.

    ``attention`` per level: ``"none"``, ``"joint"`` (image and text tokens) or ``"text"`` (text tokens
    alone). Heads are 64 channels wide and 64 heads pool the text in every released stage; neither can be
    derived from the tensors' shapes.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    layers: tuple[int, ...]
    attention: tuple[str, ...]
    middle_attention: str
    time_dim: int
    text_dim: int
    context_dim: int
    projects_text: bool
    super_resolution: bool
    head_channels: int = 64
    pool_heads: int = 64

    @property
    def image_channels(self) -> int:
        """Channels of the image itself, without the low-resolution image that is concatenated to it."""
        return self.in_channels // 2 if self.super_resolution else self.in_channels


def config_from_shapes(shapes: Shapes, head_channels: int = 64, pool_heads: int = 64) -> UNetConfig:
    """Derive the configuration from the shapes under diffusers' keys. KeysError when one is missing."""

    def shape(key: str) -> tuple[int, ...]:
        if key not in shapes:
            raise KeysError(
                f"The key {key} is missing. The file is not a complete IF stage. Download it again."
            )
        return tuple(shapes[key])

    def attention(block: str, attends: bool) -> str:
        if not attends:
            return "none"
        return "joint" if f"{block}.to_k.weight" in shapes else "text"

    layout = Layout.of_diffusers(shapes)  # type: ignore[arg-type]  # only the keys are looked at
    if not layout.layers:
        raise KeysError(
            "The key down_blocks.0.resnets.0.norm1.weight is missing. The file is not a complete IF stage. Download "
            "it again."
        )
    out_channels, _, *_ = shape("conv_out.weight")
    first_width, in_channels, *_ = shape("conv_in.weight")
    levels = range(len(layout.layers))
    widths = tuple(shape(f"down_blocks.{level}.resnets.0.conv1.weight")[0] for level in levels)
    if widths[0] != first_width:
        raise KeysError(
            f"The tensor conv_in has {first_width} output channels, and the first level has {widths[0]}. Tensors of "
            "two stages are mixed. Download the file again."
        )
    text_dim = shape(DIFFUSERS_MARK)[1]
    attending = [widths[level] for level in levels if layout.attends[level]] + [widths[-1]]
    for label, channels, parts in (
        *(("attention", width, head_channels) for width in attending),
        ("text", text_dim, pool_heads),
    ):
        if channels % parts:
            raise KeysError(
                f"The {label} has {channels} channels. An IF stage has a multiple of {parts} there. Choose the file "
                "of an IF stage."
            )
    return UNetConfig(
        in_channels=in_channels,
        out_channels=out_channels,
        widths=widths,
        layers=layout.layers,
        attention=tuple(
            attention(f"down_blocks.{level}.attentions.0", layout.attends[level]) for level in levels
        ),
        middle_attention=attention("mid_block.attentions.0", True),
        time_dim=shape("time_embedding.linear_1.weight")[0],
        text_dim=text_dim,
        context_dim=shape("mid_block.attentions.0.add_k_proj.weight")[1],
        projects_text="encoder_hid_proj.weight" in shapes,
        super_resolution="class_embedding.linear_1.weight" in shapes,
        head_channels=head_channels,
        pool_heads=pool_heads,
    )


def activation_bytes(config: UNetConfig, batch: int, height: int, width: int, itemsize: int) -> int:
    """Estimated peak of a forward pass's activations in bytes, without the weights.

    All skips are alive at the middle; the finest up block holds, beside the skips below it, its joined
    input twice over as the residual block normalises and activates it.
    """
    per_pixel = [
        (layers + 1) * w / 4**level
        for level, (w, layers) in enumerate(zip(config.widths, config.layers, strict=True))
    ]
    finest = 2 * config.widths[0] + (config.widths[1] if len(config.widths) > 1 else 0)
    return int(batch * height * width * (sum(per_pixel) + 3 * finest) * itemsize)
