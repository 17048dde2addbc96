"""Pictures of a dictionary over epochs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from genlab.callbacks.base import Callback, EpochsConfig, Snapshot
from genlab.config import Count, config
from genlab.registry import CALLBACKS
from genlab.report.figures import grid, save_grid


@runtime_checkable
class HasDictionary(Protocol):
    """A model whose codes weigh the atoms of a dictionary."""

    def atoms(self) -> Tensor:
        """A picture of each atom, uint8 ``(num_atoms, C, H, W)``."""
        ...


@config
class DictionaryAtomsConfig(EpochsConfig):
    """The first ``n`` atoms at these epochs."""

    n: Count = 256


@CALLBACKS.register("dictionary_atoms")
class DictionaryAtoms(Callback):
    """To TensorBoard at every such epoch, to ``figures/dictionary_atoms.png`` at the end."""

    Config = DictionaryAtomsConfig
    config: DictionaryAtomsConfig

    def on_epoch_end(self, snapshot: Snapshot) -> None:
        """Log one grid."""
        due = self.config.due(snapshot.epoch, snapshot.num_epochs)
        if not due or not isinstance(snapshot.model, HasDictionary):
            return
        atoms = snapshot.model.atoms()[: self.config.n]
        snapshot.logger.images("dictionary_atoms", grid(atoms), snapshot.step)

    def on_train_end(self, snapshot: Snapshot) -> None:
        """Draw the figure."""
        if isinstance(snapshot.model, HasDictionary):
            atoms = snapshot.model.atoms()[: self.config.n]
            save_grid(atoms, snapshot.folder.folder("figures") / "dictionary_atoms.png")
