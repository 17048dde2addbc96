"""Peak memory: a process for each contestant, as its high-water mark never falls."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from peers.contest import Entry
from peers.rounds import silence


def peak(entry: Entry, task: str, device: torch.device) -> int:
    """The most bytes that this process, or on CUDA the device, has held after the contestant did ``task``."""
    with silence():
        contestant = entry()
        contestant.tasks.get(task, next(iter(contestant.tasks.values()))).run()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _most_resident()


def _most_resident() -> int:
    """Bytes. On Linux getrusage(2) begins with what the parent has held, /proc with the process itself."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(kilobytes) * 1024


def of_child(arguments: list[str], family: str, name: str) -> int | None:
    """:func:`peak` in a process of its own, this script with ``arguments``; ``None`` where it fails."""
    command = [sys.executable, sys.argv[0], *arguments, "--families", family, "--only", name]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(child.stdout.splitlines()[-1]) if child.returncode == 0 else None
