"""Tests inside a real WebUI: ``WEBUI_DIR=/path/to/stable-diffusion-webui make test-webui``."""
