"""Several processes on this machine, set up as torchrun does it, and what became of each."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from harness import python

# Forks of one process that has imported everything: each of them begins at once.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["genlab.verbs", "genlab.cli", "hydra.main", "pytest"])


@dataclass(frozen=True)
class End:
    """How a process ended: with a result, an exception or an exit code."""

    result: Any = None
    error: Exception | None = None
    code: int | None = None


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }


def together(size: int, work: Callable[..., Any], *arguments: Any) -> list[End]:
    """``work(*arguments)`` in ``size`` processes that may form a group; the ends of all, by rank."""
    port, members = free_port(), []
    for rank in range(size):
        ours, theirs = _CONTEXT.Pipe()
        target = (environment(rank, size, port), theirs, work, arguments)
        members.append((_CONTEXT.Process(target=_member, args=target, daemon=True), ours))
        members[-1][0].start()
        theirs.close()
    ends = []
    for process, ours in members:
        assert ours.poll(240), "a process hangs"
        ends.append(pickle.loads(ours.recv_bytes()))
        process.join(20)
    return ends


def _member(
    variables: dict[str, str], pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(variables)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        end = End(result=work(*arguments))
    except SystemExit as error:
        end = End(code=int(error.code or 0))
    except Exception as error:
        error.__cause__ = error.__context__ = error.__traceback__ = None
        end = End(error=error)
    pipe.send_bytes(pickle.dumps(end))
    os._exit(0)  # as a process that dies: what it holds of the group is closed at once


def torchrun(size: int, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """``genlab`` in ``size`` processes, started by torchrun."""
    variables = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    place = [f"--nproc-per-node={size}", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    module = ["torch.distributed.run", *place, "-m", "genlab"]
    return python("-P", "-m", *module, *arguments, env=variables, **options)
