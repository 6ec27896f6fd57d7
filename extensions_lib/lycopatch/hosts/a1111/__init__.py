"""LycoPatch inside AUTOMATIC1111's Stable Diffusion WebUI, 1.5 to 1.10.1. ``entry`` puts the rooms together."""
