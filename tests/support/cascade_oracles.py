"""Reference networks of diffusers and of DeepFloyd's own package, at test size, for parity tests."""

from typing import Any

import torch

from .cascade_files import cascade_room


def stage_one_arguments(head: int = 16, pool_heads: int = 4) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel for a small stage I."""
    return dict(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        layers_per_block=2,
        block_out_channels=(32, 64, 128),
        down_block_types=(
            "ResnetDownsampleBlock2D",
            "SimpleCrossAttnDownBlock2D",
            "SimpleCrossAttnDownBlock2D",
        ),
        up_block_types=("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        time_embedding_dim=128,
        **_common(head, pool_heads),
    )


def stage_two_arguments(head: int = 16, pool_heads: int = 4) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel for a small stage II, its last two levels equally wide."""
    return dict(
        sample_size=32,
        layers_per_block=[1, 2, 2],
        block_out_channels=(32, 64, 64),
        down_block_types=("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
        time_embedding_dim=64,
        **_super_resolution(),
        **_common(head, pool_heads),
    )


def stage_three_arguments(head: int = 16, pool_heads: int = 4) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel for a small stage III of six levels."""
    plain, attending = "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"
    return dict(
        sample_size=64,
        layers_per_block=[2, 2, 3, 3, 4, 4],
        block_out_channels=(32, 32, 64, 64, 128, 128),
        down_block_types=(plain,) * 5 + (attending,),
        up_block_types=("SimpleCrossAttnUpBlock2D",) + ("ResnetUpsampleBlock2D",) * 5,
        time_embedding_dim=128,
        **_super_resolution(),
        **_common(head, pool_heads),
    )


def diffusers_unet(arguments: dict[str, Any], seed: int = 0, output_scale: float = 1.0) -> Any:
    """A UNet2DConditionModel with weights that hide nothing: no zero-initialised layer stays zero.

    ``output_scale`` shrinks the output head, without which a random network is chaotic over many steps.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**arguments)
        for name, parameter in unet.named_parameters():
            if parameter.ndim == 1:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
            if name.startswith("conv_out"):
                parameter.data.mul_(output_scale)
    return unet.requires_grad_(False).eval()


def stage_model(unet: Any, **options: Any) -> Any:
    """The ComfyUI MODEL with the weights of a diffusers U-Net, nothing attached."""
    import comfy.sd

    cascade_room("host_model").register()
    original = cascade_room("keys").to_original(unet.state_dict())
    return comfy.sd.load_diffusion_model_state_dict(original, model_options=options)


def pipeline(kind: str, unet: Any, cap: float, percentile: float = 0.95) -> Any:
    """A diffusers IF pipeline (``"IFPipeline"`` or ``"IFSuperResolutionPipeline"``) around a U-Net alone."""
    import diffusers
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=percentile,
        sample_max_value=cap,
    )
    absent = ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")
    parts: dict[str, Any] = dict.fromkeys(absent)
    if kind == "IFSuperResolutionPipeline":
        parts["image_noising_scheduler"] = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    made = getattr(diffusers, kind)(unet=unet, scheduler=scheduler, requires_safety_checker=False, **parts)
    made.set_progress_bar_config(disable=True)
    return made


def original_unet(config: Any) -> Any:
    """DeepFloyd's own U-Net for one of our ``UNetConfig``s, with random weights."""
    from deepfloyd_if.model import unet as original

    levels = range(len(config.widths))
    arguments = dict(
        in_channels=config.in_channels,
        model_channels=config.widths[0],
        out_channels=config.out_channels,
        num_res_blocks=list(config.layers),
        attention_resolutions=tuple(2**level for level in levels if config.attention[level] != "none"),
        activation="gelu",
        encoder_dim=config.text_dim,
        att_pool_heads=config.pool_heads,
        encoder_channels=config.context_dim,
        image_size=64,
        disable_self_attentions=tuple(2**level for level in levels if config.attention[level] == "text"),
        channel_mult=tuple(width // config.widths[0] for width in config.widths),
        num_head_channels=config.head_channels,
        use_scale_shift_norm=True,
        resblock_updown=True,
        efficient_activation=config.super_resolution,
        scale_skip_connection=config.super_resolution,
    )
    if not config.super_resolution:
        return original.UNetModel(**arguments).requires_grad_(False).eval()
    from deepfloyd_if.model.respace import create_gaussian_diffusion

    noising = create_gaussian_diffusion(
        steps=1000, noise_schedule="cosine", learn_sigma=True, timestep_respacing="1000"
    )
    unet = original.SuperResUNetModel(low_res_diffusion=noising, **arguments)
    return unet.requires_grad_(False).eval()


def _common(head: int, pool_heads: int) -> dict[str, Any]:
    return dict(
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=96,
        encoder_hid_dim=64,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=head,
        addition_embed_type="text",
        addition_embed_type_num_heads=pool_heads,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )


def _super_resolution() -> dict[str, Any]:
    return dict(
        in_channels=6,
        out_channels=6,
        class_embed_type="timestep",
        time_embedding_act_fn="gelu",
        resnet_skip_time_act=True,
        resnet_out_scale_factor=1 / 0.7071,
        mid_block_scale_factor=1 / 0.7071,
        only_cross_attention=True,
    )
