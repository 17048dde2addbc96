"""Train the classifier whose features FID compares, for a set of 28x28 grey images of ten classes.

    python scripts/train_extractor.py fashion_mnist genlab/extractors/weights/fashion_cnn.safetensors

It learns from all training images; nothing is chosen by the test images, whose accuracy the file states.
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from genlab.config import conf_dir, load_option, parse
from genlab.data import DatasetConfig, Images, data_spec, load_images
from genlab.extractors.classifier import NUM_CLASSES, SHAPE, Network
from genlab.likelihood import to_unit

BATCH_SIZE, LEARNING_RATE, SHIFT = 256, 4e-3, 2  # the rate at the height of its cycle; pixels
MIRRORED = ("fashion_mnist",)  # sets where a mirrored image is as likely: no set of letters or digits


def augment(x: Tensor, mirror: bool) -> Tensor:
    """Each image moved by up to ``SHIFT`` pixels, black coming in, and mirrored half of the time."""
    n, _, height, width = x.shape
    dy, dx = torch.randint(0, 2 * SHIFT + 1, (2, n, 1, 1))
    rows, columns = dy + torch.arange(height).view(1, -1, 1), dx + torch.arange(width).view(1, 1, -1)
    if mirror:
        columns = torch.where(torch.rand(n, 1, 1) < 0.5, columns, dx + width - 1 - torch.arange(width))
    padded = F.pad(x, (SHIFT,) * 4)
    return padded[torch.arange(n).view(-1, 1, 1), :, rows, columns].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(network: Network, test: Images) -> float:
    logits = torch.cat([network.eval()(to_unit(x))[1] for x in test.images.split(500)])
    return (logits.argmax(1) == test.labels).double().mean().item()


def train(network: Network, training: Images, test: Images, args: argparse.Namespace) -> float:
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    steps = args.epochs * -(-len(training) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        network.train()
        for chosen in torch.randperm(len(training)).split(BATCH_SIZE):
            x = to_unit(augment(training.images[chosen], mirror=args.dataset in MIRRORED))
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(x.contiguous(memory_format=torch.channels_last))[1]
            loss = F.cross_entropy(logits.float(), training.labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        score = accuracy(network, test)
        print(f"{epoch}: {loss=:.4f}, {score=:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    return score


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("dataset", help="one of conf/dataset")
parser.add_argument("output", type=Path, help="the file to write")
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--seed", type=int, default=0)
if __name__ == "__main__":
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores
    dataset = parse(DatasetConfig, load_option("dataset", args.dataset, [conf_dir()]), "dataset")
    if (data_spec(dataset).shape, data_spec(dataset).num_classes) != (SHAPE, NUM_CLASSES):
        parser.error(f"{args.dataset}: not 28x28 grey images of 10 classes")
    network = Network().to(memory_format=torch.channels_last)
    score = train(network, load_images(dataset, "train"), load_images(dataset, "test"), args)
    facts = {"trained_on": args.dataset, "test_accuracy": score, "epochs": args.epochs, "seed": args.seed}
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, args.output, {name: str(value) for name, value in facts.items()})
