"""pytorch-forecasting: its metrics are written by hand, so it takes a `loss_fn`, of two lines."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_forecasting import MAE, NBeats, TemporalFusionTransformer, TimeSeriesDataSet
from torch.utils.data import DataLoader

from litselect.callbacks import SelectiveBackprop
from litselect.scoring import CaptureError
from tests.clients.training import fit, scores_are_losses_of_single_rows, trains_exactly_k


def series() -> TimeSeriesDataSet:
    time, noise = np.arange(24), np.random.default_rng(0).normal(0, 0.1, (3, 24))
    frames = [
        pd.DataFrame({"series": str(s), "time": time, "value": np.sin(time / (s + 2)) + noise[s]}) for s in range(3)
    ]
    return TimeSeriesDataSet(
        pd.concat(frames, ignore_index=True),
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=6,
        max_prediction_length=2,
        time_varying_unknown_reals=["value"],
        target_normalizer=None,
    )


def transformer(rows: TimeSeriesDataSet) -> Any:
    return TemporalFusionTransformer.from_dataset(
        rows, hidden_size=8, attention_head_size=1, hidden_continuous_size=4, lstm_layers=1, log_interval=-1
    )


def nbeats(rows: TimeSeriesDataSet) -> Any:
    return NBeats.from_dataset(
        rows, widths=[16, 16], num_blocks=[1, 1], num_block_layers=[1, 1], loss=MAE(), log_interval=-1
    )


MODELS = {"transformer": transformer, "nbeats": nbeats}


def losses(module: Any, batch: Any) -> torch.Tensor:
    x, (target, _) = batch
    return module.loss.loss(module(x)["prediction"], target).flatten(1).mean(1)


@pytest.fixture(params=MODELS)
def client(request: pytest.FixtureRequest) -> tuple[Any, DataLoader]:
    rows = series()
    return MODELS[request.param](rows), DataLoader(rows, batch_size=9, collate_fn=rows._collate_fn)


def test_a_metric_as_a_loss_is_refused(client: tuple[Any, DataLoader]) -> None:
    with pytest.raises(CaptureError, match=r"loss functions seen: none.*example_losses.*loss_fn"):
        fit(*client, SelectiveBackprop(keep=1 / 3, warmup=0))


def test_with_a_loss_fn(client: tuple[Any, DataLoader]) -> None:
    module, data = client
    trains_exactly_k(module, data, module, lambda x, *_: len(x["encoder_cont"]), loss_fn=losses)


def test_scores_with_a_loss_fn(client: tuple[Any, DataLoader]) -> None:
    scores_are_losses_of_single_rows(*client, loss_fn=losses)
