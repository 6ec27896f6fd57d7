"""The embedded default: LycoPatch's main job on a small model of its own."""
