"""Compare genlab's speed with what a user would otherwise pick, on the same work.

    pip install -e .[bench]
    python scripts/bench.py --out cpu.json
    python scripts/bench.py --families vae realnvp --rounds 9 --out mlp.json
    python scripts/bench.py --table cpu.json --document docs/PERFORMANCE.md

Contestants take turns, each in its own process, so that ratios of a round hold whatever else the machine is
doing; absolute times want an idle one. docs/PERFORMANCE.md says what is compared.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from peers import document
from peers.machine import describe
from peers.measure import measured
from peers.options import parser
from peers.settings import setting_of
from peers.startup import start_ups


def main(args: argparse.Namespace) -> None:
    if args.table:
        show([json.loads(path.read_text()) for path in args.table], args.document)
        return
    torch.set_num_threads(args.threads)
    setting = setting_of(args)
    try:
        options = " ".join(sys.argv[1:])
        result = {"machine": describe(setting.device), "options": options, "images": setting.dataset[0]}
        result |= {"families": {}, "start_up": []}
        for name in args.families:
            print(name, file=sys.stderr, flush=True)
            result["families"][name] = measured(name, setting, args)
            save(result, args.out)  # what is measured is not lost to what comes after
        if args.start_up:
            overrides = ("model=vae", *setting.dataset, *next(iter(setting.rows.values())))
            result["start_up"] = start_ups(overrides, args.start_up, setting.folder)
        save(result, args.out)
        show([result], args.document)
    finally:
        shutil.rmtree(setting.folder, ignore_errors=True)


def save(result: dict, path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")


def show(results: list[dict], path: Path | None) -> None:
    text = document.page(results)
    document.fill(path, text) if path else print(text)


if __name__ == "__main__":
    parser.description = __doc__
    main(parser.parse_args())
