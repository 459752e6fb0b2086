"""What ComfyUI would load of a patched model."""

import torch


def loaded_weight(model, key: str) -> torch.Tensor:
    """The weight of ``key`` with the patches of the model on it, as ComfyUI loads it."""
    return model.patch_weight_to_device(key, device_to=torch.device("cpu"), return_weight=True)
