"""The reference host: a real ComfyUI, set up, started, spoken to over its API, and stopped.

``layout`` says where things stand, ``install`` puts them there, ``server`` runs ComfyUI headless,
``client`` queues prompts, ``checkpoints`` makes models to queue them on. Everything but
``checkpoints`` is standard library only: it runs before anything is installed.
"""
