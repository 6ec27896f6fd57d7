"""LoRA and LyCORIS networks for Stable Diffusion: read any of them, apply them exactly, undo them to the last bit."""

__version__ = "0.1.0"
