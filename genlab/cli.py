"""``genlab train|eval|sample``: take the verb, hand the rest to Hydra, end errors in one line.

Nothing here imports torch: help, completion and most typos are answered in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import platform
import re
import shlex
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from genlab import __version__, own, plain_yaml, torchrun
from genlab.config import conf_dir, load_option, quoted
from genlab.errors import ConfigError, GenlabError, did_you_mean, explain
from genlab.usage import FLAGS, GROUPS, VERBS, folders, overview, verb_help

if TYPE_CHECKING:
    from omegaconf import DictConfig

_HYDRA_PLUGINS = {
    "hydra/launcher": ("joblib", "ray", "submitit_local", "submitit_slurm"),
    "hydra/sweeper": ("optuna",),
}
"""What the extra ``sweep`` brings."""
_CODE = re.compile(r"[+~]*(hydra|plugins)\b|-(?!m$|-multirun$)")
"""Arguments by which a command may run code that is not genlab's."""


def main() -> None:
    """The console script."""
    logging.raiseExceptions = False  # a full disk is reported once, by what failed, not by every log line
    threading.excepthook = _leave_to_main
    try:
        _dispatch(sys.argv[1:])
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has seen enough: `genlab --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("GENLAB_TRACEBACK"):
            traceback.print_exc()
        known = _translate(error)
        _fail(str(known), known.exit_code)


def _leave_to_main(failed: threading.ExceptHookArgs) -> None:
    """Print nothing of a thread that fails: of TensorBoard's, the error is raised where it is asked next."""


def _fail(message: str, code: int) -> NoReturn:
    if torchrun.first_to_say(message):
        print(f"genlab: error: {message}", file=sys.stderr)
    sys.exit(code)


def _dispatch(argv: list[str]) -> None:
    if "-sc" in argv or "--shell-completion" in argv:
        _complete(argv)
        return
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview(folders(argv)))
        return
    if argv[0] in ("-V", "--version"):
        print(f"genlab {__version__}")
        return
    verb, arguments = argv[0], _tidy(argv[1:])
    if verb not in VERBS:
        raise ConfigError(f"unknown verb '{verb}'{did_you_mean(verb, VERBS)}")
    if "-h" in arguments or "--help" in arguments:
        print(verb_help(verb, folders(arguments)))
        return
    _run(verb, arguments)


def _tidy(arguments: list[str]) -> list[str]:
    """Overrides first, then flags, as Hydra's parser wants them; ``group=null`` as ``~group``."""
    for flag in arguments:
        name = flag.partition("=")[0]
        if name.startswith("-") and name not in FLAGS:
            raise ConfigError(f"unknown flag '{name}'{did_you_mean(name, FLAGS)}")
    overrides = [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]
    rest = [a for a in arguments if a not in overrides]
    overrides = [a for a in overrides if a != "experiment=null"]
    nulls = {f"{group}=null": f"~{group}" for group in GROUPS}
    return [*(nulls.get(a, a) for a in overrides), *rest]


def _run(verb: str, arguments: list[str]) -> None:
    """Compose the configuration and run ``verb`` with it, once or for each job of a multirun."""
    for folder in _config_folders(arguments):
        plain_yaml.check_folder(folder)
    if runs := _compared(verb, arguments):
        _compare(runs, arguments)
    else:
        _compose(verb, arguments)


def _compose(verb: str, arguments: list[str], errors: list[GenlabError] | None = None) -> None:
    """The same of one run; what it fails by ends the process, unless there are ``errors`` to add it to."""
    config_name, arguments = _from_run(verb, arguments)
    arguments = torchrun.arguments(verb, arguments)
    # Hydra prints errors and exits by itself unless this is set; here they are raised, and end in one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *arguments]
    _hydra(verb, config_name, errors)


def _hydra(verb: str, config_name: str, errors: list[GenlabError] | None = None) -> None:
    import hydra

    from genlab import sweep

    run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(
        _Task(verb, errors)
    )
    with sweep.reported():
        run()


@dataclass(frozen=True)
class _Task:
    """What Hydra calls with the configuration of each job, here or in a worker that a launcher has started."""

    verb: str
    errors: list[GenlabError] | None = None
    command: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))
    folder: Path = field(default_factory=Path.cwd)
    process: tuple[str, int] = field(default_factory=lambda: (platform.node(), os.getpid()))

    def __call__(self, config: DictConfig) -> float | list[float] | None:
        if (platform.node(), os.getpid()) != self.process:
            self._settle()
        return _job(self.verb, config, self.errors)

    def _settle(self) -> None:
        """Make a worker like the process that it works for, without bars, which those of others would tear."""
        sys.argv = list(self.command)
        os.environ["TTY_COMPATIBLE"] = "0"  # rich takes the console for a file
        with contextlib.suppress(OSError):  # another machine need not have the folder
            os.chdir(self.folder)


def _from_run(verb: str, arguments: list[str]) -> tuple[str, list[str]]:
    """Find the run that is named and offer its settings; returns configuration and arguments for Hydra."""
    key = "resume" if verb == "train" else "run"
    given = _value(arguments, key)
    if given is None and verb == "train":
        return verb, arguments
    from genlab.run_folder import find

    first, *others = _listed(given or "latest")
    if others and verb != "eval":
        raise ConfigError(f"{key}={given}: genlab {verb} takes one run; genlab eval takes several")
    if verb == "train" and (command := _sweep_command(Path(first).expanduser())):
        _ask_for_sweep(Path(first).expanduser(), command[:-1])
        return verb, _tidy([*command, *(a for a in arguments if not a.startswith("resume="))])
    outputs = Path(_value(arguments, "output_dir") or "outputs")
    folder = find(first, outputs, key)
    saved = folder.load_config()
    if not _value([a.lstrip("+") for a in arguments], "plugins"):
        _ask_for_plugins(folder.path, saved.get("plugins"), key)
    _offer(saved, verb)
    named = [f"{key}={quoted(folder.path)}"]
    if others:
        paths = [find(name, outputs, key).path for name in others]
        named.append(f"ensemble=[{','.join(map(quoted, paths))}]")
    rest = [a for a in arguments if not a.startswith((f"{key}=", "output_dir="))]
    return ("resume" if verb == "train" else verb), [*named, *rest]


def _compared(verb: str, arguments: Sequence[str]) -> list[str]:
    """The runs to be measured one by one; none where there is but one, or where the others are its ensemble."""
    names = _listed(_value(arguments, "run") or "latest") if verb == "eval" else []
    several = _value(arguments, "several") or "auto"
    shown = {"--cfg", "-c", "--info", "-i", "--hydra-help", "-m", "--multirun"} & set(arguments)
    if len(names) < 2 or shown or several not in ("auto", "compare"):
        return []
    return names if several == "compare" or not _takes_ensemble(arguments) else []


def _takes_ensemble(arguments: Sequence[str]) -> bool:
    """Whether the evaluation that is named makes anything of an ensemble."""
    option = _value(arguments, "evaluation")
    if option is None:
        return False
    from genlab.registry import EVALUATIONS

    name = load_option("evaluation", option, folders(arguments)).get("name")
    return name in EVALUATIONS.names() and bool(EVALUATIONS[name].takes_ensemble)


def _compare(names: Sequence[str], arguments: Sequence[str]) -> None:
    """Measure each of several runs by the same arguments, and write one page of all."""
    from hydra.core.global_hydra import GlobalHydra

    from genlab import comparison
    from genlab.run_folder import RunFolder, find

    outputs = Path(_value(arguments, "output_dir") or "outputs")
    rest = [a for a in arguments if not a.startswith("run=")]
    command = shlex.join(["genlab", *sys.argv[1:]])

    def measure(run: RunFolder) -> None:
        GlobalHydra.instance().clear()
        errors: list[GenlabError] = []
        _compose("eval", [f"run={quoted(run.path)}", *rest], errors)
        if errors:
            raise errors[0]

    runs = [find(name, outputs) for name in names]
    nothing = "~evaluation" in rest  # to be measured
    comparison.compare(runs, outputs, command, None if nothing else measure, _translate)


def _listed(value: str) -> list[str]:
    """``a`` or ``[a,b,c]``, as a list."""
    if not (value.startswith("[") and value.endswith("]")):
        return [value]
    names = [name.strip().strip("'\"") for name in value[1:-1].split(",")]
    if not all(names):
        raise ConfigError(f"run={value}: name the folders of runs, [a,b,c]")
    return names


def _sweep_command(folder: Path) -> list[str]:
    """The arguments that go on with the sweep in ``folder``; none where there is no sweep."""
    from genlab import sweep

    arguments = sweep.arguments(folder)
    return [*arguments, f"hydra.sweep.dir={quoted(folder.absolute())}"] if arguments else []


def _ask_for_plugins(folder: Path, plugins: Any, key: str) -> None:
    """Refuse to import what a run names that was not made here: whoever sent it may have sent those too."""
    names = list(map(str, plugins)) if isinstance(plugins, list) else [str(plugins or "")]
    if any(names) and not own.is_own(folder, names):
        raise ConfigError(
            f"{key}={folder} was made elsewhere and names plugins, modules whose code would run; if you trust "
            f"them, add plugins=[{','.join(names)}]"
        )


def _ask_for_sweep(folder: Path, command: Sequence[str]) -> None:
    """The same of a sweep whose command can name code: by plugins, flags, launchers and their settings."""
    words = [a for a in command if _CODE.match(a) or "${" in a or "_target_" in a]
    if words and not own.is_own(folder, command):
        again = shlex.join(["genlab", "train", *command, f"hydra.sweep.dir={quoted(folder.absolute())}"])
        raise ConfigError(
            f"resume={folder}: the sweep was begun elsewhere, by words that can run code ({words[0]}); if you "
            f"trust them, say them yourself: {again}"
        )


def _offer(saved: Mapping[str, Any], verb: str) -> None:
    """Make a run's saved settings the option ``from_run`` of each group."""
    from hydra.core.config_store import ConfigStore

    kept = saved.keys() - set(GROUPS) if verb == "train" else {"run_name", "plugins"}
    rest = {name: value for name, value in saved.items() if name in kept}
    store = ConfigStore.instance()
    store.store("from_run", rest, package="_global_")
    for group in GROUPS:
        store.store("from_run", saved.get(group) or {}, group=group)


def _config_folders(arguments: Sequence[str]) -> list[Path]:
    """What the user names to Hydra as folders of YAML."""
    flags = ("--config-dir", "-cd", "--config-path", "-cp")
    joined = [a.partition("=")[2] for a in arguments if a.partition("=")[0] in flags and "=" in a]
    apart = [value for flag, value in itertools.pairwise(arguments) if flag in flags]
    return [Path(value) for value in (*joined, *apart)]


def _value(arguments: Sequence[str], key: str) -> str | None:
    """The value of the override ``key=value``, unquoted."""
    values = [a.partition("=")[2].strip("'\"") for a in arguments if a.startswith(f"{key}=")]
    return values[-1] if values else None


def _job(verb: str, config: DictConfig, errors: list[GenlabError] | None = None) -> float | list[float] | None:
    """One job: what Hydra calls with the composed configuration."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from genlab import sweep

    hydra = HydraConfig.get()
    folder = torchrun.common_folder(Path(hydra.runtime.output_dir))
    conf = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    attempt = sweep.attempt(hydra, config, _translate) if verb == "train" else None
    try:
        with attempt or contextlib.nullcontext(sweep.Earlier()) as earlier:
            values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            metrics = earlier.metrics
            if metrics is None:
                metrics = _perform(verb, values | earlier.settings, folder, conf)
            return sweep.objective(hydra, values, metrics)
    except Exception as error:
        known = _translate(error)
        if type(known) is GenlabError:  # nobody expected it: keep where it came from
            with contextlib.suppress(OSError):
                (folder / "error.txt").write_text(traceback.format_exc())
        if hydra.mode == RunMode.MULTIRUN:
            if attempt is None:  # else the sweep has said so
                logging.getLogger(__name__).error("job %s failed: %s", hydra.job.num, known)
            if sweep.ends_in_report(hydra):
                return None
            raise known from None
        if errors is not None:  # raised through Hydra they would be printed
            errors.append(known)
            return None
        with contextlib.suppress(OSError):  # where nothing was written, leave no empty folder behind
            folder.rmdir()
            if not folder.parent.samefile(Path.cwd()):
                folder.parent.rmdir()
        _fail(str(known), known.exit_code)


def _perform(verb: str, values: Mapping[str, Any], folder: Path, conf: list[Path]) -> Mapping[str, float]:
    from genlab import verbs

    perform = {"train": verbs.train, "eval": verbs.evaluate, "sample": verbs.sample}[verb]
    return perform(values, folder, conf)


def _translate(error: Exception) -> GenlabError:
    """``error`` as one line, Hydra's and OmegaConf's included."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = [option for option in error.options or [] if option != "from_run"]
        if name in (plugins := _HYDRA_PLUGINS.get(group, ())):
            return ConfigError(f"{group}={name} needs a plugin of Hydra: pip install 'genlab[sweep]'")
        known += [plugin for plugin in plugins if plugin not in known]
        return ConfigError(f"unknown {group or 'configuration'} '{name}'{did_you_mean(name, known)}")
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"'{error.override}' is no override; write key=value, quotes around a value if need be"
        )
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        siblings = list(cause.parent_node or [])
        hint = did_you_mean(cause.full_key.rpartition(".")[2], map(str, siblings))
        return ConfigError(f"unknown key '{cause.full_key}'{hint}")
    at_fault = isinstance(error, ValueError) and str(error).startswith("Only one of --run")
    if at_fault or isinstance(error, HydraException | OmegaConfBaseException):
        return ConfigError(" ".join(str(error).split()) or type(error).__name__)
    return explain(error)


def _complete(argv: list[str]) -> None:
    """Tab completion: the verbs by us, everything behind a verb by Hydra."""
    program, _, line = os.environ.get("COMP_LINE", "").partition(" ")
    verb, space, rest = line.lstrip().partition(" ")
    if any("query=" in a for a in argv) and (not space or verb not in VERBS):
        print(" ".join(VERBS))
        return
    verb = verb if verb in VERBS else "train"
    os.environ["COMP_LINE"] = f"{program} {rest}"
    try:
        _from_run(verb, rest.split())
    except GenlabError:
        _offer({}, verb)
    sys.argv = [sys.argv[0], *(a for a in argv if a not in VERBS)]
    _hydra(verb, verb)
