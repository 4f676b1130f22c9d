"""The contract that every selector keeps, one function per clause.

Each is called with a `Case` and raises AssertionError where the selector breaks the clause. `test_contract.py` runs
all of them over all selectors, and each of them over a selector that was built to break it.
"""

import copy
import io
import math
import pickle
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import litselect.selectors
from litselect.selectors import Selection, Selector
from litselect.selectors.selector import SCORES
from tests import shapes
from tests.selectors.case import DRAWS, Case, tolerance

Check = Callable[[Case], None]
CHECKS: dict[str, tuple[Check, Callable[[Case], bool]]] = {}
"""By name: the check, and whether it says anything about a case."""


def check(applies: Callable[[Case], bool] = lambda case: True) -> Callable[[Check], Check]:
    def register(function: Check) -> Check:
        CHECKS[function.__name__] = function, applies
        return function

    return register


def _difficulty(n: int, seed: int = 0) -> Tensor:
    """Distinct difficulties, in no order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=generator).float() * 20 / max(1, n)


def _refusal(call: Callable[[], Any]) -> str:
    """The message of the ValueError that `call` must raise."""
    try:
        call()
    except ValueError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"expected a ValueError, got {error!r}") from error
    raise AssertionError("expected a ValueError, but nothing was raised")


def _fixed_size(case: Case) -> bool:
    return not case.fresh().probabilistic and not case.keeps_all


def _looks(case: Case) -> bool:
    return bool(case.fresh().needs)


# ---------------------------------------------------------------------- the form of an answer


@check()
def indices_are_valid(case: Case) -> None:
    for n in (1, 2, 7, 64):
        for keep in (0.1, 0.5, 1.0):
            indices = case.choose(_difficulty(n), keep=keep, seed=n).indices
            assert indices.dtype == torch.int64
            assert indices.ndim == 1
            assert (indices.diff() > 0).all(), "ascending, none twice"
            assert ((indices >= 0) & (indices < n)).all()


@check(lambda case: not case.keeps_all)
def the_size_is_exact(case: Case) -> None:
    for n in (1, 2, 3, 5, 7, 10, 64):
        for keep in (0.05, 0.3, 0.5, 2 / 3, 1.0):
            kept = len(case.choose(_difficulty(n), keep=keep).indices)
            if case.fresh(keep).probabilistic:
                assert 0 <= kept <= n
            else:
                assert kept == max(1, round(keep * n)), f"{kept} of {n} at keep={keep}"


@check(_fixed_size)
def k_overrides_keep(case: Case) -> None:
    for k in (1, 3, 7, 9):
        assert len(case.choose(_difficulty(9), k=k)) == k


@check()
def k_outside_one_to_n_is_refused(case: Case) -> None:
    for k in (0, -1, 10):
        message = _refusal(lambda k=k: case.choose(_difficulty(9), k=k))
        assert f"k={k}" in message
        assert "N=9" in message


@check(lambda case: not case.weighted)
def keep_one_is_the_identity(case: Case) -> None:
    for n in (1, 2, 9, 64):
        for seed in range(5):
            selection = case.choose(_difficulty(n), keep=1.0, seed=seed)
            assert selection.indices.tolist() == list(range(n))
            assert selection.weights is None


@check(_fixed_size)
def k_equal_to_n_keeps_all(case: Case) -> None:
    for seed in range(5):
        assert case.choose(_difficulty(9), k=9, seed=seed).indices.tolist() == list(range(9))


@check()
def one_candidate_is_chosen(case: Case) -> None:
    for keep in (0.01, 0.5, 1.0):
        chosen = case.choose(_difficulty(1), keep=keep).indices.tolist()
        assert chosen == [0] or (case.fresh().probabilistic and chosen == [])


@check()
def an_empty_batch_is_refused(case: Case) -> None:
    assert "empty" in _refusal(lambda: case.fresh()(**case.inputs(torch.empty(0))))
    if not case.fresh().needs:
        assert "empty" in _refusal(lambda: case.fresh()(candidates=0))


@check()
def inputs_are_left_alone(case: Case) -> None:
    inputs = case.inputs(_difficulty(9))
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    case.choose_from(inputs)
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)


@check()
def no_gradient_flows(case: Case) -> None:
    inputs = {
        name: x.requires_grad_() if x.is_floating_point() else x for name, x in case.inputs(_difficulty(9)).items()
    }
    weights = case.choose_from(inputs).weights
    assert weights is None or not weights.requires_grad


# ---------------------------------------------------------------------- which rows


@check()
def the_choice_follows_a_permutation(case: Case) -> None:
    """Exactly where nothing is drawn; otherwise in distribution, that of pairs included."""
    n = 12
    inputs = case.inputs(_difficulty(n))
    permutation = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    permuted = {name: tensor[permutation] for name, tensor in inputs.items()}
    plain, moved = case.together(inputs), case.together(permuted, seed=DRAWS)
    bound = math.sqrt(2) * tolerance(DRAWS) if case.draws else 0.0
    assert (moved - plain[permutation][:, permutation]).abs().max() <= bound


@check()
def planted_hard_rows_are_preferred(case: Case) -> None:
    """Half of the rows is hard, in other places every time. A selector without preference must show none."""
    n, draws = 16, DRAWS
    generator = torch.Generator().manual_seed(0)
    share = 0.0
    for seed in range(draws):
        hard = torch.randperm(n, generator=generator) < n // 2
        difficulty = hard * 10.0 + torch.rand(n, generator=generator)
        with shapes.unchecked():
            chosen = case.choose(difficulty, seed=seed).indices
        share += (hard[chosen].sum() - (~hard)[chosen].sum()).item() / (n / 2) / draws
        if case.prefers_hard and not case.draws and not case.fresh().probabilistic:
            assert hard[chosen].all(), "k hard rows were there to be chosen"
    bound = 2 * tolerance(draws, n // 2)
    assert (share > bound) if case.prefers_hard else (abs(share) < bound), f"hard minus easy: {share:.3f}"


@check()
def equal_rows_are_treated_alike(case: Case) -> None:
    """Constant scores, too. A selector that draws nothing gives ties to the earlier row, if it has to break them."""
    for levels in (1, 3):
        n = 9
        difficulty = (torch.arange(n) % levels).float() * 5 + 1
        included = case.inclusion(case.inputs(difficulty), keep=2 / 3)
        if case.draws or not case.prefers_hard or case.fresh().probabilistic:
            for level in difficulty.unique():
                alike = included[difficulty == level]
                assert alike.max() - alike.min() <= math.sqrt(2) * tolerance(DRAWS)
        else:
            order = sorted(range(n), key=lambda i: (-difficulty[i].item(), i))
            assert included.nonzero().squeeze(1).tolist() == sorted(order[:6])


@check(lambda case: case.weighted)
def weights_are_unbiased(case: Case) -> None:
    """The mean of weight * loss over the chosen rows estimates the mean loss, and that of the weights estimates 1."""
    n = 16
    generator = torch.Generator().manual_seed(0)
    difficulty = 20 * torch.rand(n, generator=generator) ** 2
    values = torch.stack([difficulty.double(), torch.ones(n).double()])
    estimates = torch.zeros(DRAWS, 2, dtype=torch.float64)
    for seed in range(DRAWS):
        with shapes.unchecked():
            selection = case.choose(difficulty, seed=seed)
        weights = selection.weights
        assert weights is not None
        assert weights.shape == selection.indices.shape
        assert weights.is_floating_point()
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        if len(selection):
            estimates[seed] = (weights.double() * values[:, selection.indices]).mean(1)
        if case.estimates == "sum":  # fewer steps: each counts for its rows
            estimates[seed] *= len(selection) / n
    error = (estimates.mean(0) - values.mean(1)).abs()
    assert (error <= 5 * estimates.std(0) / math.sqrt(DRAWS) + 1e-6).all(), f"off by {error.tolist()}"


@check(lambda case: not case.weighted)
def an_unweighted_choice_has_no_weights(case: Case) -> None:
    assert case.choose(_difficulty(9)).weights is None


@check(_looks)
def broken_scores_are_refused(case: Case) -> None:
    """NaN anywhere, inf in losses and ratings (logits may be masked by -inf): with the row count and the remedy."""
    for name, tensor in case.inputs(_difficulty(9)).items():
        if name not in case.fresh().needs or not tensor.is_floating_point():
            continue
        for bad in (math.nan, math.inf, -math.inf) if name in ("losses", "ratings") else (math.nan,):
            inputs = case.inputs(_difficulty(9))
            inputs[name][[2, 5]] = bad
            selector = case.fresh()
            message = _refusal(lambda selector=selector, inputs=inputs: selector(**inputs))
            assert "2 of 9" in message
            assert name in message
            assert "leave them out" in message


@check()
def the_dtype_of_the_scores_does_not_matter(case: Case) -> None:
    inputs = case.inputs(torch.randperm(16, generator=torch.Generator().manual_seed(0)).float())
    expected = case.choose_from(inputs).indices.tolist()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        cast = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
        chosen = case.choose_from(cast).indices
        assert chosen.dtype == torch.int64
        assert chosen.tolist() == expected, f"{dtype} changes the choice"


@check()
def large_half_precision_scores_do_not_overflow(case: Case) -> None:
    difficulty = torch.tensor([1.0, 2.0, 3.0, 4.0] * 3, dtype=torch.float16) * 5000
    chosen = case.choose(difficulty, keep=1.0).indices
    assert (difficulty[chosen] == 20000).sum() == 3
    assert len(chosen) == 12 or case.fresh(1.0).keep < 1
    if case.prefers_hard and not case.draws and not case.fresh().probabilistic:
        assert (difficulty[case.choose(difficulty, keep=0.25).indices] == 20000).all()


# ---------------------------------------------------------------------- what it is given


@check(_looks)
def a_missing_need_is_named(case: Case) -> None:
    inputs = case.inputs(_difficulty(9))
    for name in case.fresh().needs & inputs.keys():
        rest = {key: tensor for key, tensor in inputs.items() if key != name}
        assert name in _refusal(lambda rest=rest: case.fresh()(**rest, candidates=9))


@check(lambda case: case.has_keep)
def a_wrong_keep_is_refused(case: Case) -> None:
    for keep in (0.0, -0.5, 1.5, math.nan, math.inf):
        message = _refusal(lambda keep=keep: case.fresh(keep))
        assert "keep" in message
        assert repr(keep) in message


@check()
def further_scores_are_ignored(case: Case) -> None:
    inputs = case.inputs(_difficulty(9))
    expected = case.choose_from(inputs)
    noise = {name: torch.full((9,), math.nan) for name in SCORES if name not in {*inputs, *case.also_takes, "ids"}}
    ids = {} if "ids" in inputs else {"ids": torch.arange(9).flip(0)}
    assert case.choose_from({**inputs, **noise, **ids}, candidates=9).indices.equal(expected.indices)
    if not case.fresh().needs:
        assert case.fresh()(candidates=9).indices.equal(expected.indices)


# ---------------------------------------------------------------------- randomness


@check()
def the_seed_decides(case: Case) -> None:
    streams = [case.stream(case.fresh(seed=seed)) for seed in (0, 0, 1, 2)]
    assert streams[0] == streams[1]
    if case.draws:
        assert streams[0] != streams[2] != streams[3]
    else:
        assert streams[0] == streams[2] == streams[3]


@check(lambda case: case.draws)
def a_numpy_seed_is_a_seed(case: Case) -> None:
    assert case.stream(case.fresh(seed=np.int64(7))) == case.stream(case.fresh(seed=7))  # pyright: ignore


@check(lambda case: case.draws)
def every_rank_draws_its_own(case: Case) -> None:
    streams = []
    for rank in (0, 1, 2, 1):
        selector = case.fresh()
        selector.rank = rank
        streams.append(case.stream(selector))
    assert streams[1] == streams[3]
    assert streams[0] != streams[1] != streams[2] != streams[0]


@check(lambda case: case.draws)
def without_a_seed_the_run_decides(case: Case) -> None:
    """By `torch.initial_seed()`, wherever the global stream stands, and no earlier than at the first draw."""
    streams = []
    for seed, drawn in ((1, 0), (1, 5), (2, 0)):
        selector = case.fresh(seed=None)
        repr(selector)
        torch.manual_seed(seed)
        torch.rand(drawn)
        streams.append(case.stream(selector))
    assert streams[0] == streams[1]
    assert streams[0] != streams[2]


@check(lambda case: case.draws)
def a_default_seed_takes_the_place_of_the_run_s(case: Case) -> None:
    """It is set from outside, on all ranks alike; a seed of the selector's own goes first."""
    for seed, changes in ((None, True), (4, False)):
        streams = []
        for default, run in ((1, 1), (1, 2), (2, 1)):
            torch.manual_seed(run)
            selector = case.fresh(seed=seed)
            selector.default_seed = default
            streams.append(case.stream(selector))
        assert streams[0] == streams[1]
        assert (streams[0] != streams[2]) is changes


@check()
def global_streams_are_untouched(case: Case) -> None:
    for seed in (None, 3):
        before = _global_streams()
        selector = case.fresh(seed=seed)
        case.stream(selector)
        selector.load_state_dict(selector.state_dict())
        repr(selector)
        selector.reset()
        assert _global_streams() == before


def _global_streams() -> tuple[Any, ...]:
    kind, keys, position, *_ = np.random.get_state()  # noqa: NPY002 - the stream that must stay as it is
    return torch.get_rng_state().tolist(), kind, keys.tolist(), position, random.getstate()


# ---------------------------------------------------------------------- state


@check()
def a_saved_state_goes_on_identically(case: Case) -> None:
    """Into a new selector or a used one, before the first draw or later; a state is a snapshot."""
    for calls in (0, 3):
        original = case.fresh(seed=5)
        case.stream(original, calls=calls)
        state = original.state_dict()
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        expected = case.stream(original, seed=1)
        used = case.fresh(seed=5)
        case.stream(used, calls=2, seed=2)
        for heir, saved in ((case.fresh(seed=5), torch.load(file, weights_only=True)), (used, state)):
            heir.load_state_dict(saved)
            assert case.stream(heir, seed=1) == expected
    heir = case.fresh(seed=6)  # after the first draw the seed is no longer asked
    heir.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert case.stream(heir, seed=1) == expected


@check(lambda case: case.draws or case.stateful)
def there_is_state_to_be_lost(case: Case) -> None:
    """Otherwise the round trip above says nothing."""
    used, fresh = case.fresh(seed=5), case.fresh(seed=5)
    case.stream(used, calls=3)
    assert case.stream(used, seed=1) != case.stream(fresh, seed=1)


@check()
def reset_forgets_everything(case: Case) -> None:
    selector = case.fresh(seed=5)
    first = case.stream(selector)
    selector.reset()
    assert case.stream(selector) == first


def _remembered(n: int, seed: int) -> dict[str, Tensor]:
    """All that a ledger, a table of ratings and a data set of two classes know."""
    losses = _difficulty(n, seed)
    learned = {"percentiles": losses / 21, "confidences": (-losses / 20).exp(), "ages": losses.fmod(3).floor()}
    return {"losses": losses, **learned, "ids": torch.arange(n) + 100, "targets": losses.long() % 2, "ratings": -losses}


def _but_streams(state: dict[str, Any]) -> dict[str, Any]:
    """A selector's state without where its random streams are, as text."""
    inner = {name: _but_streams(value) for name, value in state.items() if isinstance(value, dict)}
    return {name: repr(value) for name, value in state.items() if name != "generator"} | inner


@check(lambda case: case.fresh().foreseeable)
def a_memoryless_choice_can_be_made_at_any_time(case: Case) -> None:
    at_once, late = case.fresh(seed=5), case.fresh(seed=5)
    before = _but_streams(late.state_dict())
    for batch in (0, 1, 2):
        late.draw_for(0, batch)
        late(**_remembered(24, batch))
    chosen = []
    for selector in (at_once, late):
        selector.draw_for(1, 7)
        chosen.append(selector(**_remembered(24, 7)))
    assert chosen[0].indices.tolist() == chosen[1].indices.tolist()
    assert _but_streams(late.state_dict()) == before, "nothing is left behind"


@check()
def copies_go_on_identically_and_alone(case: Case) -> None:
    for clone in (copy.deepcopy, lambda selector: pickle.loads(pickle.dumps(selector))):
        for calls in (0, 3):
            original = case.fresh(seed=5)
            case.stream(original, calls=calls)
            twin = clone(original)
            advanced = case.stream(twin, seed=1)
            assert case.stream(original, seed=1) == advanced
            assert repr(twin) == repr(original)


@check()
def the_repr_makes_its_like(case: Case) -> None:
    selector = case.fresh(keep=0.25, seed=5)
    text = repr(selector)
    assert "frozenset" not in text  # whose order may be another in a copy
    names = {**vars(litselect.selectors), **vars(sys.modules[type(selector).__module__])}
    like: Selector = eval(text, names)
    assert repr(like) == text
    assert like.keep == selector.keep
    assert case.stream(like) == case.stream(selector)


@check()
def the_answer_is_a_selection(case: Case) -> None:
    try:
        chosen = case.choose(_difficulty(9))
    except TypeError as error:
        raise AssertionError(error) from error
    assert isinstance(chosen, Selection)
