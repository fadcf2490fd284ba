"""Training on CUDA devices with Triton's kernels: what the torch step does, without its score matrix and its waits.

``contrast`` holds the kernels that score and go back, ``update`` the optimizer's, ``engine`` the step made of them and
what it can take, ``graphs`` its capture as CUDA graphs.  Nothing here imports Triton before it is needed: it comes with
torch's CUDA builds, and where it is missing torch's own step trains.
"""

__all__ = ["Kind", "unusable"]

import dataclasses
from importlib.util import find_spec

import torch

from pretrain.config import Side
from recokit.table import Operator

_OLDEST = (8, 0)  # compute capability with tensor cores for bfloat16 and TF32


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the edges of a group have in common.

    Args:
        operator: Of their relations.
        operator_side: The end that it stands on.
        one_relation: They have one relation between them.
        sides: The ends that are replaced.
    """

    operator: Operator
    operator_side: Side
    one_relation: bool
    sides: tuple[Side, ...]


def unusable(device: torch.device) -> str | None:
    """Return why Triton's kernels cannot run on a device; None if they can. Triton is not imported."""
    if device.type != "cuda":
        return f"the device is {device}, not a CUDA device"
    if find_spec("triton") is None:
        return "triton is not installed; it comes with torch's CUDA builds: pip install triton"
    if (found := torch.cuda.get_device_capability(device)) < _OLDEST:
        return f"the device has compute capability {found[0]}.{found[1]}; the kernels need {_OLDEST[0]}.{_OLDEST[1]}"
    return None
