"""Makes any command small: few images, one short epoch, narrow networks."""

from __future__ import annotations

import functools
import json
import re
import shlex
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import yaml
from harness import CHECKOUT, genlab

CAPS = {
    r"trainer\.(stages\.\w+\.)?epochs": 1,
    r"trainer\.batch_size": 12,
    r"trainer\.log_every": 1,
    r"dataset\.num_val": 12,
    r"dataset\.format\.(num_images|size)": 48,
    r"dataset\.format\.num_(scales|orientations|positions)": 3,
    r"evaluation\..*\bslow_images": 2,
    r"(callbacks|evaluation)\..*\b(batch_size|max_images|num_images|num_samples|num_held_out)": 16,
    r"evaluation\..*\b(num_train|num_eval|resamples|group_size|steps|importance_samples)": 4,
    r"callbacks\..*\b(max_dims|num_pairs|per_class|figures|columns|n|steps|grid|film)": 4,
    r"model\..*\b(hidden_dims?|channels|hidden_channels|feature_dim|num_atoms|num_codes|num_components)": 8,
    r"model\..*\b(num_blocks|blocks|num_layers|couplings_\w+|norm_iterations|eval_samples|num_samples)": 2,
    r"model\.(num_flows|num_scales)": 4,
    r"model\.(bound_steps|num_steps|ode\.num_steps|samplers\.\w+\.num_steps)": 4,
    r"model\.schedule\.num_steps": 50,
}
"""The largest value of what makes a run long; lists are capped member by member."""
SET = {
    r"trainer\.max_steps": "2",
    r"trainer\.schedule\.warmup_steps": "0",
    r"hardware\.device": "cpu",
    r"hardware\.threads": "1",
}
TRAINED = r"dataset\.num_val|model\.(bound_steps|num_steps|ode\..*|samplers\..*)"
"""What may differ in a model that is trained already."""
NUM_IMAGES = {"train": 48, "t10k": 24}


def content(name: str) -> bytes:
    """What stands for the file ``name`` of a set: few images, of digits none but black ones."""
    if name.endswith(".json"):
        return _digits()
    n = NUM_IMAGES["train" if "train" in name else "t10k"]
    shape = (n, 28, 28) if "idx3" in name else (n,)
    high = 256 if "idx3" in name else 10
    values = np.random.default_rng(0).integers(0, high, shape, dtype=np.uint8)
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + values.tobytes()


@functools.cache
def _digits() -> bytes:
    return json.dumps({"data": [0] * (784 * 805)}).encode()  # ten such files: 8,000 to train, 50 for the test


def small(command: str) -> list[str]:
    """The arguments of ``genlab ...``, with overrides that make it small; two jobs of a sweep."""
    arguments = shlex.split(command)[1:]
    sweeps = _sweeps(arguments) if "-m" in arguments else {}
    keys = sorted(sweeps, key="model".__eq__)  # models differ in their settings: of two, none can be made small
    swept = [f"{key}={_first(sweeps[key], 1 if i else 2)}" for i, key in enumerate(keys)]
    kept = [a for a in arguments if a.partition("=")[0] not in sweeps]
    first = [a.partition(",")[0] for a in swept if "(" not in a]
    outcome = genlab(*(a for a in kept if a != "-m"), *first, "--cfg", "job")
    assert (outcome.code, outcome.err) == (0, ""), f"{command}: {outcome.err}"
    values = yaml.safe_load(outcome.out)
    watching = [name for name in values.get("callbacks", {}) if name not in command and name != "sample_grid"]
    for name in watching:  # what they draw takes longer than all the rest, and is tested elsewhere
        values["callbacks"][name] = None
    overrides = {f"callbacks.{name}": "null" for name in watching} | {
        key: value
        for key, value in _overrides(values, "", is_trained=arguments[0] != "train")
        if key not in sweeps and not (key.startswith(("model.", "trainer.schedule.")) and keys[:1] == ["model"])
    }
    searches = ["hydra.sweeper.n_trials=2"] if "search_vae" in command or "optuna" in command else []
    split = [] if "num_val" in values["dataset"] else ["+dataset.num_val=12"]  # another set than the run's
    return [*kept, *swept, *(f"{key}={value}" for key, value in overrides.items()), *split, *searches]


def _sweeps(arguments: Sequence[str]) -> dict[str, str]:
    """What a multirun sweeps over: what its experiment says, and the command line."""
    given = dict(a.split("=", 1) for a in arguments if "=" in a)
    found: dict[str, Any] = {}
    if "experiment" in given:
        text = (CHECKOUT / "conf" / "experiment" / f"{given['experiment']}.yaml").read_text()
        found = yaml.safe_load(text).get("hydra", {}).get("sweeper", {}).get("params", {})
    listed = {key: value for key, value in given.items() if re.search(r"^[^\[]*,|interval\(", value)}
    return {key: str(value) for key, value in (found | listed).items()}


def _first(values: str, count: int) -> str:
    return values if "(" in values else ",".join(values.split(",")[:count])


def _overrides(values: Any, where: str, is_trained: bool) -> Iterator[tuple[str, str]]:
    """What is to be overridden in a composed configuration; nothing that shapes a trained model."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _overrides(value, f"{where}.{key}".lstrip("."), is_trained)
        return
    if is_trained and where.startswith(("dataset.", "model.")) and not re.fullmatch(TRAINED, where):
        return
    for pattern, value in SET.items():
        if re.fullmatch(pattern, where):
            yield where, value
    cap = next((cap for pattern, cap in CAPS.items() if re.fullmatch(pattern, where)), None)
    if cap is None or isinstance(values, bool):
        return
    if isinstance(values, int) and values > cap:
        yield where, str(cap)
    if isinstance(values, list) and any(isinstance(v, int) and v > cap for v in values):
        yield where, f"[{','.join(str(min(v, cap)) if isinstance(v, int) else v for v in values)}]"
