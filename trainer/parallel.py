"""The place of this process among those that share a run. `torchrun` sets it in the environment; nothing else reads it.

Without `torchrun`, this process is the only one.
"""

from __future__ import annotations

import os


def rank() -> int:
    """Return the number of this process, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes share the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the number of this process on its machine, from 0 on. The process takes the GPU of that number."""
    return int(os.environ.get("LOCAL_RANK", "0"))
