"""chemprop: a batch is one big graph, which has no rows to take."""

from typing import Any

import pytest
import torch
from chemprop import data, models, nn
from chemprop.data.collate import collate_batch
from torch.utils.data import DataLoader

from litselect.callbacks import SelectiveBackprop
from tests.clients.training import fit, scores_are_losses_of_single_rows, trains_exactly_k


class PacksLate(models.MPNN):
    """The molecules come as a list, one entry an example, and are packed into a graph once they are chosen."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        graph = self.transfer_batch_to_device(collate_batch(batch["molecules"]), self.device, 0)
        return super().training_step(graph, batch_idx)


def molecules(rows: list[Any]) -> dict[str, Any]:
    return {"molecules": rows, "row": torch.arange(len(rows))}


def network(kind: type = models.MPNN) -> Any:
    return kind(
        nn.BondMessagePassing(d_h=16), nn.MeanAggregation(), nn.RegressionFFN(input_dim=16, hidden_dim=16, n_layers=1)
    )


def alcohols_and_others() -> data.MoleculeDataset:
    names = ["C" * length + end for length in range(1, 10) for end in ("O", "N", "Cl")]
    return data.MoleculeDataset([data.MoleculeDatapoint.from_smi(name, [float(len(name))]) for name in names])


def test_a_packed_graph_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one entry per example.*BatchMolGraph.*packed"):
        fit(
            network(), data.build_dataloader(alcohols_and_others(), batch_size=9), SelectiveBackprop(keep=0.3, warmup=0)
        )


def test_molecules_that_are_packed_in_the_step() -> None:
    module = network(PacksLate)
    loader = DataLoader(alcohols_and_others(), batch_size=9, collate_fn=molecules)
    trains_exactly_k(module, loader, module.message_passing)


def test_scores() -> None:
    """In proportion: the loss is a sum that the library divides by a count, which is read as part of the step."""
    loader = DataLoader(alcohols_and_others(), batch_size=9, collate_fn=molecules)
    scores_are_losses_of_single_rows(network(PacksLate), loader, factor=9)
