"""Lightning's own demonstration modules, unmodified."""

import pytest
import torch
from lightning.pytorch.demos import boring_classes, transformer
from torch.utils.data import DataLoader, TensorDataset

from litselect.callbacks import SelectiveBackprop
from litselect.scoring import CaptureError
from tests.clients.training import fit, scores_are_losses_of_single_rows, trains_exactly_k


class Transformer(transformer.LightningTransformer):
    """Without its download."""

    def prepare_data(self) -> None:
        pass


def sentences(n: int = 27) -> DataLoader:
    tokens = torch.randint(40, (n, 9))
    return DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch_size=9)


def test_transformer() -> None:
    module = Transformer(vocab_size=40)
    trains_exactly_k(module, sentences(), module.model)


def test_transformer_scores() -> None:
    scores_are_losses_of_single_rows(Transformer(vocab_size=40), sentences())


BORING = (boring_classes.BoringModel, boring_classes.ManualOptimBoringModel)


@pytest.mark.parametrize("kind", BORING)
def test_boring(kind: type) -> None:
    module = kind()
    trains_exactly_k(module, DataLoader(boring_classes.RandomDataset(32, 28), batch_size=9), module.layer)


def test_boring_scores() -> None:
    scores_are_losses_of_single_rows(boring_classes.BoringModel(), vectors())


def vectors() -> DataLoader:
    return DataLoader(boring_classes.RandomDataset(32, 27), batch_size=9)


def test_demo_is_refused() -> None:
    """Its loss is the sum of its outputs: nothing to capture."""
    with pytest.raises(CaptureError, match=r"loss functions seen: none.*example_losses.*loss_fn"):
        fit(boring_classes.DemoModel(), vectors(), SelectiveBackprop(keep=1 / 3, warmup=0))


def test_demo_with_a_loss_fn() -> None:
    module = boring_classes.DemoModel()
    trains_exactly_k(module, vectors(), module.l1, loss_fn=lambda module, batch: module(batch).sum(1))
