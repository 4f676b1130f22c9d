"""Selection by ratings: of a table, or of a frozen rater."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from litselect.callbacks import ExampleSelection
from litselect.callbacks.ratings import labels_of
from litselect.scoring import RaterArtifact, StatisticsRater, TableRater
from litselect.selectors import Mixture, RatedSubset, Stratified, TopLoss
from tests.callbacks.kit import CLASSES, WIDTH, Classifier

ROWS, BATCH = 48, 12


class Counted(Dataset[Any]):
    """Knows which examples were loaded, and shows their labels without loading them."""

    def __init__(self, rows: int = ROWS) -> None:
        self.x = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(3))
        self.targets = torch.arange(rows) % CLASSES
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        self.loaded.append(i)
        return self.x[i], self.targets[i], i


class Hidden(Counted):
    """The same without labels to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.y = self.targets
        del self.targets

    def __getitem__(self, i: int) -> Any:
        self.loaded.append(i)
        return self.x[i], self.y[i], i


class FirstFeature(nn.Module):
    """Rates by the first input."""

    def __init__(self, bad: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float("nan") if bad else 1.0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.scale * inputs[:, 0]


def artifact(rater: nn.Module) -> RaterArtifact:
    return RaterArtifact(rater, torch.linspace(-2, 2, 5), {}, {})


def trained(solo: Any, callback: ExampleSelection, dataset: Any, **settings: Any) -> Any:
    module = solo.make(Classifier)
    batches = DataLoader(dataset, BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))
    solo.fit(module, callback, data=batches, **settings)
    return module


# ---------------------------------------------------------------------- a table


def test_the_highest_rated_are_trained_and_no_others_loaded(solo: Any) -> None:
    dataset, table = Counted(), torch.rand(ROWS)
    callback = ExampleSelection(RatedSubset(0.25, hard=True), ratings=table)
    module = trained(solo, callback, dataset, max_epochs=2)
    order = torch.Generator().manual_seed(5)
    batches = iter(DataLoader(torch.arange(ROWS), BATCH, shuffle=True, generator=order))
    first = next(batches)
    assert set(module.steps[0]) == set(first[table[first].argsort(descending=True)[:3]].tolist())
    assert sorted(dataset.loaded) == sorted(i for step in module.steps for i in step)
    counters = callback.counters
    assert (counters.seen, counters.scored, counters.trained) == (2 * ROWS, 0, ROWS // 2)


def test_on_request_all_are_loaded(solo: Any) -> None:
    dataset = Counted()
    trained(solo, ExampleSelection(RatedSubset(0.25), ratings=torch.rand(ROWS), skip_loading=False), dataset)
    assert len(dataset.loaded) == ROWS


@pytest.mark.parametrize(
    ("selector", "loads_all"),
    [
        (Mixture(RatedSubset(0.25), 0.2), False),
        (RatedSubset(0.25, within_class=True), True),  # the classes are in the batch
        (Stratified(RatedSubset(0.25)), True),
    ],
)
def test_wrapped_selectors_get_ratings_and_labels(solo: Any, selector: Any, loads_all: bool) -> None:
    dataset = Counted()
    module = trained(solo, callback := ExampleSelection(selector, ratings=torch.rand(ROWS)), dataset)
    assert [len(step) for step in module.steps] == [3] * 4
    assert (len(dataset.loaded) == ROWS) is loads_all
    assert callback.counters.scored == 0


def test_a_table_of_another_data_set_is_refused(solo: Any) -> None:
    message = "one rating for each training example, but 7 ratings came with 48 examples"
    with pytest.raises(ValueError, match=message):
        trained(solo, ExampleSelection(RatedSubset(0.25), ratings=torch.rand(7)), Counted())


@pytest.mark.parametrize("table", [torch.rand(3, 2), torch.tensor([1.0, float("nan")]), torch.arange(4), torch.rand(0)])
def test_what_is_no_table_is_refused(table: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="the rating of example i at place i"):
        ExampleSelection(RatedSubset(0.25), ratings=table)


def test_what_does_not_rate_is_refused() -> None:
    with pytest.raises(TypeError, match="Expected `ratings` to be a tensor"):
        ExampleSelection(RatedSubset(0.25), ratings=FirstFeature())  # type: ignore[arg-type] - that is the point


def test_ratings_need_a_selector_that_looks_at_them(solo: Any) -> None:
    with pytest.raises(ValueError, match=r"does not\. Use RatedSubset"):
        trained(solo, ExampleSelection(TopLoss(0.25), ratings=torch.rand(ROWS)), Counted())


def test_across_ranks_is_refused(solo: Any) -> None:
    with pytest.raises(ValueError, match="each rank then chooses among its own rows"):
        trained(solo, ExampleSelection(RatedSubset(0.25), ratings=torch.rand(ROWS), across_ranks=True), Counted())


# ---------------------------------------------------------------------- a frozen rater


def test_a_rater_rates_each_batch(solo: Any) -> None:
    dataset = Counted()
    callback = ExampleSelection(RatedSubset(0.25, hard=True), ratings=artifact(FirstFeature()))
    module = trained(solo, callback, dataset)
    batches = DataLoader(torch.arange(ROWS), BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))
    for step, batch in zip(module.steps, batches, strict=True):
        assert set(step) == set(batch[dataset.x[batch, 0].argsort(descending=True)[:3]].tolist())
    assert callback.counters.scored == 0


def test_from_its_folder(solo: Any, tmp_path: Any) -> None:
    artifact(StatisticsRater(4)).save(tmp_path / "rater")
    callback = ExampleSelection(RatedSubset(0.25), ratings=tmp_path / "rater")
    trained(solo, callback, Counted())
    assert callback.counters.scored == ROWS  # it looks at the statistics of the module


def test_statistics_need_a_scoring_pass(solo: Any) -> None:
    callback = ExampleSelection(RatedSubset(0.25), ratings=artifact(StatisticsRater(4)), scoring="ledger")
    with pytest.raises(ValueError, match="needs a scoring pass over every batch"):
        trained(solo, callback, Counted())


def test_a_rating_that_is_not_finite_raises(solo: Any) -> None:
    callback = ExampleSelection(RatedSubset(0.25), ratings=artifact(FirstFeature(bad=True)))
    with pytest.raises(FloatingPointError, match="the ratings of batch 0"):
        trained(solo, callback, Counted())


def test_or_is_never_trained(solo: Any) -> None:
    dataset = Counted()
    dataset.x[::2, 0] = float("nan")
    rows = artifact(FirstFeature())
    rows.fields = lambda batch: {"inputs": batch[0]}
    callback = ExampleSelection(RatedSubset(0.25), ratings=rows, nonfinite="drop")
    module = trained(solo, callback, dataset)
    assert all(i % 2 for step in module.steps for i in step)


# ---------------------------------------------------------------------- which labels are kept

FAVOURITE = torch.where(torch.arange(400) % CLASSES == 0, 5.0, 0.0)


@pytest.mark.parametrize(("dataset", "skip"), [(Counted(400), None), (Counted(400), False)])
def test_a_starved_class_is_warned_of(solo: Any, dataset: Any, skip: bool | None) -> None:
    callback = ExampleSelection(RatedSubset(0.2, hard=True), ratings=FAVOURITE, skip_loading=skip)
    with pytest.warns(UserWarning, match=r"Selection starves classes 1 .*, 2"):
        trained(solo, callback, dataset, max_epochs=4)
    ratios = callback.kept_labels.ratios()
    assert ratios[0] > 2.5
    assert ratios[2] < 0.1


def test_no_class_is_starved_by_a_draw(solo: Any) -> None:
    callback = ExampleSelection(RatedSubset(0.2), ratings=torch.rand(400))
    trained(solo, callback, Counted(400), max_epochs=2)  # where a warning is an error
    assert callback.kept_labels.ratios().min() > 0.7


def test_the_histogram_is_logged(solo: Any) -> None:
    logger = solo.logger()
    callback = ExampleSelection(RatedSubset(0.5), ratings=torch.rand(ROWS))
    trained(solo, callback, Counted(), logger=logger)
    row = [row for _, row in logger.rows if "select/kept_label_0" in row][-1]
    counted = {f"select/kept_label_{c}" for c in range(CLASSES)}
    assert counted <= row.keys()
    assert row["select/kept_label_least"] == min(row[name] for name in counted)


def test_labels_that_show_only_in_batches_are_counted_where_all_are_loaded(solo: Any) -> None:
    callback = ExampleSelection(RatedSubset(0.5), ratings=torch.rand(ROWS), skip_loading=False)
    trained(solo, callback, Hidden())
    assert callback.kept_labels.seen.sum() == pytest.approx(ROWS, rel=0.01)


def test_labels_of_data_sets() -> None:
    x, y = torch.randn(4, 2), torch.tensor([1, 0, 1, 2])
    assert labels_of(TensorDataset(x, y)).tolist() == [1, 0, 1, 2]
    assert labels_of(Subset(TensorDataset(x, y), [3, 0])).tolist() == [2, 1]
    assert labels_of(Counted(4)).tolist() == [0, 1, 2, 0]
    assert labels_of(Hidden()) is None
    assert labels_of(TensorDataset(x)) is None
    assert labels_of(TensorDataset(x, y.float())) is None


def test_a_rater_that_goes_by_ids_has_them_remembered(solo: Any) -> None:
    """Without being told to."""
    rater = TableRater(ROWS)
    with torch.no_grad():
        rater.ratings.copy_(torch.arange(ROWS))
    artifact = RaterArtifact(rater, torch.zeros(3), {}, {})
    module = solo.make(Classifier)
    solo.fit(module, ExampleSelection(RatedSubset(0.5, hard=True), ratings=artifact), data=DataLoader(Counted(), BATCH))
    assert all(min(step) % BATCH == BATCH // 2 for step in module.steps)
