"""A host made of a pipeline from the diffusers package, which is not needed to import this."""

from lycopatch.hosts.diffusers.loader import NetworkLoader

__all__ = ["NetworkLoader"]
