"""The options of scripts/bench.py."""

import argparse
import os
from pathlib import Path

from peers.families import FAMILIES
from peers.settings import TASKS

parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument(
    "--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"], help="of genlab"
)
parser.add_argument("--compile", action="store_true", help="hardware.compile=default")
parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further overrides of genlab")
parser.add_argument("--device", default="cpu", help="cpu | cuda | cuda:1")
parser.add_argument("--dataset", default="fashion_mnist", help="of conf/dataset, 28x28 and grey")
parser.add_argument("--images", type=int, help="images of an epoch; by default each family has its own number")
parser.add_argument("--start-up", type=int, default=0, metavar="N", help="also start N processes")
parser.add_argument("--out", type=Path, help="JSON; without it the tables are printed")
parser.add_argument("--table", nargs="+", type=Path, metavar="JSON", help="print the tables of earlier runs")
parser.add_argument("--document", type=Path, help="put the tables between the marks of this file")
