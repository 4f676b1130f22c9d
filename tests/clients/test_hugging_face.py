"""Models of transformers, of random weights, in the LightningModule that everyone writes around them."""

from typing import Any

import pytest
import torch
import transformers
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from tests.clients.training import scores_are_losses_of_single_rows, trains_exactly_k

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


class Wrapper(LightningModule):
    """The loss is computed inside the model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        output = self.model(**batch)
        self.log("loss", output.loss)
        return output.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def bert() -> tuple[Any, list[Any]]:
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, num_labels=3, **SMALL))
    tokens, labels = torch.randint(1, 50, (27, 8)), torch.randint(3, (27,))
    return model, [
        transformers.BatchEncoding(
            {"input_ids": tokens[i], "attention_mask": (torch.arange(8) < 4 + i % 5).long(), "labels": labels[i]}
        )
        for i in range(27)
    ]


def bert_tokens() -> tuple[Any, list[Any]]:
    """Unequal lengths: labels of -100 are ignored."""
    model = transformers.BertForTokenClassification(transformers.BertConfig(vocab_size=50, num_labels=3, **SMALL))
    tokens, labels = torch.randint(1, 50, (27, 8)), torch.randint(3, (27, 8))
    for i in range(27):
        labels[i, 2 + i % 6 :] = -100
    mask = (labels != -100).long()
    return model, [{"input_ids": tokens[i], "attention_mask": mask[i], "labels": labels[i]} for i in range(27)]


def gpt2() -> tuple[Any, list[Any]]:
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    )
    return model, [{"input_ids": row, "labels": row} for row in torch.randint(50, (27, 8))]


def vit() -> tuple[Any, list[Any]]:
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **SMALL)
    )
    images, labels = torch.randn(27, 3, 8, 8), torch.randint(3, (27,))
    return model, [{"pixel_values": images[i], "labels": labels[i]} for i in range(27)]


def collate(rows: list[Any]) -> Any:
    return type(rows[0])({key: torch.stack([row[key] for row in rows]) for key in rows[0]})


MODELS = {"bert": bert, "bert tokens": bert_tokens, "gpt2": gpt2, "vit": vit}


@pytest.fixture(params=MODELS)
def client(request: pytest.FixtureRequest) -> tuple[Any, DataLoader]:
    model, rows = MODELS[request.param]()
    return Wrapper(model), DataLoader(rows, batch_size=9, collate_fn=collate)


def test_training(client: tuple[Any, DataLoader]) -> None:
    module, data = client
    trains_exactly_k(module, data, module.model)


def test_scores(client: tuple[Any, DataLoader]) -> None:
    scores_are_losses_of_single_rows(*client)
