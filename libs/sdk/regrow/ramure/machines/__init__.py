"""Images and machines, under ramure's names."""

from .base import Image, Machine
from .local import LocalImage, LocalMachine, ManagedMachine

__all__ = ["Image", "LocalImage", "LocalMachine", "Machine", "ManagedMachine"]
