"""A host made of tensors."""

from lycopatch.hosts.memory.loader import NetworkLoader

__all__ = ["NetworkLoader"]
