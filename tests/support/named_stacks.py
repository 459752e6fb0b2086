"""The stacks of core's diffusion models, written down by hand, and which block the text of a key says."""

import re

# Model -> its stacks, in the order of a weight list: letter=module path:count. Read off core's classes by hand.
STACKS = {
    "SD1": "IN=input_blocks:12 M=middle_block:1 OUT=output_blocks:12",
    "SDXL": "IN=input_blocks:9 M=middle_block:1 OUT=output_blocks:9",
    "SDXL refiner": "IN=input_blocks:12 M=middle_block:1 OUT=output_blocks:12",
    "KOALA 700M": "IN=input_blocks:6 OUT=output_blocks:6",
    "SD3": "J=joint_blocks:24",
    "SD3.5 Medium": "J=joint_blocks:24",
    "Stable Audio": "B=transformer.layers:24",
    "AuraFlow": "D=double_layers:4 S=single_layers:32",
    "PixArt": "B=blocks:28",
    "HunyuanDiT": "B=blocks:40",
    "Flux.1 dev": "D=double_blocks:19 S=single_blocks:38",
    "Flux.2 klein 4B": "D=double_blocks:5 S=single_blocks:20",
    "Chroma": "G=distilled_guidance_layer.layers:5 D=double_blocks:19 S=single_blocks:38",
    "Chroma Radiance": "G=distilled_guidance_layer.layers:5 D=double_blocks:19 S=single_blocks:38 N=nerf_blocks:4",
    "Mochi": "B=blocks:48",
    "LTXV": "B=transformer_blocks:28",
    "LTX-2": "VC=video_embeddings_connector.transformer_1d_blocks:2 AC=audio_embeddings_connector.transformer_1d_blocks:2 B=transformer_blocks:48",
    "HunyuanVideo": "TR=txt_in.individual_token_refiner.blocks:2 D=double_blocks:20 S=single_blocks:40",
    "HunyuanVideo 1.5": "TR=txt_in.individual_token_refiner.blocks:2 D=double_blocks:54",
    "HunyuanImage 2.1": "TR=txt_in.individual_token_refiner.blocks:2 D=double_blocks:20 S=single_blocks:40",
    "Hunyuan3D 2": "D=double_blocks:16 S=single_blocks:32",
    "Hunyuan3D 2.1": "B=blocks:21",
    "Cosmos 1": "B=blocks.block:28",
    "Cosmos Predict2": "B=blocks:28",
    "Anima": "A=llm_adapter.blocks:6 B=blocks:28",
    "Lumina 2": "CR=context_refiner:2 NR=noise_refiner:2 B=layers:26",
    "Z-Image": "CR=context_refiner:2 NR=noise_refiner:2 B=layers:30",
    "Z-Image pixel": "CR=context_refiner:2 NR=noise_refiner:2 B=layers:30 P=dec_net.res_blocks:4",
    "PixelDiT": "B=patch_blocks:14 P=pixel_blocks:2",
    "PiD": "B=patch_blocks:14 P=pixel_blocks:2",
    "Wan 2.1": "B=blocks:30",
    "Wan 2.1 I2V": "B=blocks:30",
    "Wan causal": "B=blocks:30",
    "Wan VACE": "B=blocks:30 VACE=vace_blocks:15",
    "Wan camera": "B=blocks:30",
    "Wan HuMo": "B=blocks:30",
    "Wan SCAIL": "B=blocks:30",
    "Wan SCAIL 2": "B=blocks:30",
    "Wan S2V": "B=blocks:40 INJECTOR=audio_injector.injector:12 INJECTOR_ADAIN=audio_injector.injector_adain_layers:12",
    "Wan Animate": "B=blocks:30 FUSER=face_adapter.fuser_blocks:6",
    "WanDancer": "B=blocks:30 MUSIC_ENCODER=music_encoder:2 INJECTOR=music_injector.injector:8",
    "HiDream I1": "D=double_stream_blocks:16 S=single_stream_blocks:32",
    "HiDream O1": "V=visual.blocks:27 B=language_model.layers:36",
    "OmniGen2": "CR=context_refiner:2 NR=noise_refiner:2 RR=ref_image_refiner:2 B=layers:32",
    "Boogu": "CR=context_refiner:2 NR=noise_refiner:2 RR=ref_image_refiner:2 D=double_stream_layers:8 S=single_stream_layers:32",
    "Qwen-Image": "B=transformer_blocks:60",
    "Mage-Flow": "B=transformer_blocks:24",
    "JoyImage": "D=double_blocks:20",
    "Ideogram 4": "B=layers:34",
    "Krea 2": "TL=txtfusion.layerwise_blocks:2 TR=txtfusion.refiner_blocks:2 B=blocks:28",
    "Kandinsky 5": "T=text_transformer_blocks:2 B=visual_transformer_blocks:32",
    "Lens": "B=transformer_blocks:48",
    "Ernie-Image": "B=layers:36",
    "CogVideoX": "B=blocks:30",
    "MiniMax H3": "TR=token_refiner.blocks:2 B=blocks:50",
    "SeedVR2": "B=blocks:32",
    "TripoSplat": "CR=context_refiner:2 NR=noise_refiner:2 B=blocks:24 CONTEXT_REPO=context_repo_layers:2 NOISE_REPO=noise_repo_layers:2 REPO=repo_layers:24",
    "ACE-Step": "B=transformer_blocks:28 ENCODERS=lyric_encoder.encoders:6",
    "ACE-Step 1.5": "B=decoder.layers:24 DETOKENIZER=detokenizer.layers:2 LYRIC_ENCODER=encoder.lyric_encoder.layers:8 TIMBRE_ENCODER=encoder.timbre_encoder.layers:4 ATTENTION_POOLER=tokenizer.attention_pooler.layers:2",
}  # fmt: skip


def by_name(key: str, stacks: list[tuple[str, str, int]]) -> str | None:
    """The block that the text of a key says, without the code that is tested."""
    for letter, title, _ in stacks:
        mark = "" if title == "blocks.block" else r"\."
        if found := re.match(rf"diffusion_model\.{re.escape(title)}{mark}(\d+)\.", key):
            return "M00" if letter == "M" else f"{letter}{int(found.group(1)):02}"
    return None


def stacks_of(text: str) -> list[tuple[str, str, int]]:
    found = [re.fullmatch(r"(\w+)=([\w.]+):(\d+)", word) for word in text.split()]
    return [(match.group(1), match.group(2), int(match.group(3))) for match in found if match]
