"""A training script as a user would write it, for any number of processes: docs/guides/distributed.md."""

import argparse
import os

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from litselect.callbacks import SelectiveBackprop


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def on_train_epoch_end(self):
        if self.trainer.is_global_zero:
            print("epoch", self.current_epoch, flush=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()

    seed_everything(0)
    x = torch.randn(200, 16)
    y = x[:, :4].argmax(1)
    module = Classifier()
    trainer = Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),  # as many as torchrun starts on this node
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        strategy="ddp",
        callbacks=[SelectiveBackprop(keep=0.5), ModelCheckpoint(arguments.folder, save_last=True)],
        logger=False,
        enable_progress_bar=False,
    )
    print("rank", trainer.global_rank, "pid", os.getpid(), flush=True)
    last = os.path.join(arguments.folder, "last.ckpt")
    trainer.fit(
        module,
        DataLoader(TensorDataset(x, y), batch_size=20, shuffle=True),
        ckpt_path=last if os.path.exists(last) else None,
    )
    print("rank", trainer.global_rank, "weights", sum(p.double().sum().item() for p in module.parameters()), flush=True)


if __name__ == "__main__":
    main()
