"""Making machines from whatever a ramure program calls an image, and ending those that only it knows."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from regrow_protocol.images import AnyImage, InvalidImage, encode_image
from regrow_protocol.images import Image as Travelling

from ... import machines
from .base import Machine
from .local import LocalImage, ManagedMachine

if TYPE_CHECKING:
    from ..local import Local

log = logging.getLogger("regrow.ramure")


async def make(owner: Local, image: Any) -> Machine:
    """A machine of `image`, which ends when `owner` does.

    Args:
        owner: the process whose machine it is.
        image: of `regrow`, any object with `async spawn() -> Machine`, or what the process's record says.
    """
    if not hasattr(image, "spawn"):
        given = None if isinstance(image, Travelling) else cast("AnyImage", image)
        return ManagedMachine(await machines.machine(given))
    made = cast("Machine", await image.spawn())
    if not isinstance(made, ManagedMachine):
        owner.machines.append(made)
    return made


async def stop_all(owner: Local) -> None:
    """Stop the machines that no machine-manager looks after, the last one first; before, what runs on them."""
    await asyncio.gather(*(program.end() for program in owner.programs))
    for program in owner.programs:
        program.forget()
    while owner.machines:
        one = owner.machines.pop()
        try:
            await one.stop()
        except Exception:
            log.exception("process %s: its machine %s could not be stopped", owner.pid, one.describe())


def travelling(image: Any) -> Travelling | None:
    """An image as a process's record can say it; None for one that is an object of the program."""
    try:
        return encode_image(image.managed if isinstance(image, LocalImage) else image)
    except InvalidImage:
        return None
