"""The VAE by pythae: its model, loss and trainer, with encoder and decoder of the given layers."""

from __future__ import annotations

import torch

from genlab.likelihood import to_unit
from peers.contest import Contestant, Setting, Task
from peers.loop import size_of
from peers.vae_network import PlainVAE, VAESize


def pythae(setting: Setting, size: VAESize) -> Contestant:
    """Trained by ``train()``, which saves the model at its end; images are floats in memory, as it wants."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    nets = PlainVAE(size)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets.encoder

        def forward(self, x: torch.Tensor) -> ModelOutput:
            mean, log_var = self.net(x.flatten(1)).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets.decoder

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.net(z).view(-1, 1, 28, 28))

    class Loss(TrainingCallback):
        last = float("nan")

        def on_log(self, training_config: BaseTrainerConfig, logs: dict[str, float], **kwargs: object) -> None:
            self.last = logs["train_epoch_loss"]

    images, loss = setting.first(size), Loss()
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=size.latent, reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder())
    training = BaseTrainerConfig(
        output_dir=str(setting.folder / "pythae"),
        num_epochs=1,
        learning_rate=1e-3,
        per_device_train_batch_size=size.batch,
        optimizer_cls="Adam",
        no_cuda=setting.device.type == "cpu",
    )
    dataset = BaseDataset(to_unit(images), torch.zeros(len(images)))
    trainer = BaseTrainer(model, dataset, training_config=training, callbacks=[loss])
    trainer.prepare_training()
    inputs = trainer._set_inputs_to_device(next(iter(trainer.train_loader)))

    def epoch() -> float:
        trainer.train(log_output_dir=str(setting.folder / "pythae"))
        return loss.last

    def step() -> float:
        for _ in range(size.steps):
            output = trainer.model(inputs)
            trainer._optimizers_step(output)
            value = output.loss.item()
        return value

    tasks = {
        "epoch": Task(epoch, len(images) // size.batch, len(images)),
        "step": Task(step, size.steps, size.steps * size.batch),
    }
    return Contestant("pythae", tasks, size_of(model))
