"""Pixel-space diffusion in stages (DeepFloyd IF, Imagen): thresholds, schedules, U-Net, sampler, order."""
