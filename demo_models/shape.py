"""The sizes of the demo models' networks, in the words of ComfyUI's own classes."""

# Stable Diffusion 1's own shape: 12 / 1 / 12 blocks, 16 of them with attention to the text; a tenth as wide.
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 3, 4), "use_spatial_transformer": True, "legacy": False, "context_dim": 128,
    "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
    "transformer_depth_middle": 1, "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "num_heads": -1, "num_head_channels": 32,
}  # fmt: skip

TEXT = {
    "architectures": ["CLIPTextModel"], "bos_token_id": 0, "eos_token_id": 49407, "hidden_act": "quick_gelu",
    "hidden_size": 128, "intermediate_size": 512, "layer_norm_eps": 1e-5, "max_position_embeddings": 77,
    "model_type": "clip_text_model", "num_attention_heads": 4, "num_hidden_layers": 4, "pad_token_id": 1,
    "projection_dim": 128, "vocab_size": 49408,
}  # fmt: skip

VISION = {
    "hidden_act": "quick_gelu", "hidden_size": 128, "image_size": 64, "intermediate_size": 512,
    "layer_norm_eps": 1e-5, "model_type": "clip_vision_model", "num_attention_heads": 4, "num_channels": 3,
    "num_hidden_layers": 4, "patch_size": 8, "projection_dim": 128,
}  # fmt: skip
