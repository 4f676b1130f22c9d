"""Whether training out of the scoring forward is as good as with a second one: `python -m experiments.reuse_training`.

A small residual network on the digits, with batch and with group normalisation. Standard and re-used forwards see the
same data and select by the same rule.
"""

import logging
import statistics
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from experiments import environment
from experiments.data.images import Images
from experiments.models.cnn_small import CnnSmall
from experiments.report.document import Table
from experiments.report.markdown import to_table
from litselect.callbacks import ExampleSelection
from litselect.selectors import LossPercentile, Selector, TopLoss

SEEDS, EPOCHS, BATCH, WIDTH = 3, 12, 64, 8
RATES = {"batch": 0.1, "group": 0.03}  # without batch statistics, training on hard examples breaks off at 0.1
KEEPS = {"1/2": 1 / 2, "1/3": 1 / 3}
SELECTORS: dict[str, Callable[[float], Selector]] = {"LossPercentile": LossPercentile, "TopLoss": TopLoss}
Reuse = bool | Literal["batchnorm"]


class Network(pl.LightningModule):
    """A classifier of digits.

    Args:
        norm: "batch" or "group".
        steps: over which the learning rate falls to zero.
    """

    def __init__(self, norm: str, steps: int) -> None:
        super().__init__()
        self.net = CnnSmall(1, 8, 10, WIDTH)
        self.steps, self.rate = steps, RATES[norm]
        if norm == "group":
            in_groups(self.net)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """SGD whose learning rate falls as a cosine."""
        optimizer = torch.optim.SGD(self.parameters(), self.rate, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def in_groups(module: nn.Module) -> None:
    """Put GroupNorm in the place of every BatchNorm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(4, child.num_features))
        else:
            in_groups(child)


def digits() -> tuple[Images, Images]:
    """Training and test images, as they are."""
    bunch = cast(Any, load_digits())
    pixels = torch.from_numpy(bunch.images * 15).to(torch.uint8).unsqueeze(1)  # 0..16 becomes 0..240
    everything = Images(pixels, torch.from_numpy(bunch.target).long(), classes=10)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    return everything.rows(order[: -len(order) // 3]), everything.rows(order[-len(order) // 3 :])


def tensors(images: Images) -> TensorDataset:
    """Pixels from -1 to 1, and labels."""
    return TensorDataset(images.pixels.float() / 120 - 1, images.labels)


def train(norm: str, callback: ExampleSelection | None, seed: int, data: tuple[Images, Images]) -> tuple[float, float]:
    """Test accuracy in per cent and test loss of one run."""
    pl.seed_everything(seed, verbose=False)
    learn, test = (tensors(part) for part in data)
    loader = DataLoader(learn, BATCH, shuffle=True, generator=torch.Generator().manual_seed(seed))
    module = Network(norm, EPOCHS * len(loader))
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[] if callback is None else [callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    if callback is not None and callback.reuse_forward:
        assert callback.counters.reused == callback.counters.scored, callback.reuse_refused
    module.eval()
    images, labels = test.tensors
    with torch.no_grad():
        logits = module.net(images)
    return 100 * float((logits.argmax(1) == labels).float().mean()), float(F.cross_entropy(logits, labels))


def cells(found: list[tuple[float, float]]) -> tuple[str, str]:
    """Mean and standard deviation over the seeds, of both numbers."""
    accuracies, losses = zip(*found, strict=True)
    return (
        f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}",
        f"{statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}",
    )


def main() -> None:
    """Trains and prints."""
    torch.set_num_threads(1)
    facts = environment.describe()
    for package in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(package).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers|.isinstance.treespec")
    warnings.filterwarnings("ignore", "The number of training batches")
    data = digits()
    rows: list[tuple[str, ...]] = []
    for norm in ("batch", "group"):
        plain = [train(norm, None, seed, data) for seed in range(SEEDS)]
        rows.append((f"{norm} norm, plain training", "", *cells(plain), "", ""))
        for (name, make), (kept, keep) in product(SELECTORS.items(), KEEPS.items()):
            arms: list[str] = []
            reuse: Reuse
            for reuse in (False, "batchnorm" if norm == "batch" else True):
                found = [
                    train(norm, ExampleSelection(make(keep), reuse_forward=reuse), seed, data) for seed in range(SEEDS)
                ]
                arms += cells(found)
            rows.append((f"{norm} norm, {name}", kept, *arms))
    head = ("", "keep", "standard: accuracy, %", "standard: loss", "re-used: accuracy, %", "re-used: loss")
    print(to_table(Table(head, rows)))
    print(
        "\n" + ", ".join(f"{name} {facts[name]}" for name in ("hardware", "torch", "commit")) + f"; {EPOCHS} epochs, "
        f"batches of {BATCH}, mean ± standard deviation of {SEEDS} seeds"
    )


if __name__ == "__main__":
    main()
