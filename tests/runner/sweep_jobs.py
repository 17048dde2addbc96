"""Jobs of a sweep, and its tables read back."""

import csv
import re

from genlab.sweep import Job


def only_sweep(outputs):
    """The one folder of a sweep under ``outputs``, and the rows of its table."""
    (folder,) = outputs.glob("sweeps/*")
    return folder, read_table(folder)


def read_table(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def entries(line):
    """Of a row of a Markdown table."""
    return [entry.strip() for entry in re.split(r"(?<!\\)\|", line)[1:-1]]


def column(table, name):
    return [row[name] for row in table]


def job_of(number, settings, metrics=None, error=""):
    status = "ok" if metrics else "failed"
    return Job(number, status, settings, metrics or {}, 1.0, f"{number}-run", error)
