"""What a checkpoint holds beside the callback's settings, and what of it a run can go on from."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed

from litselect.callbacks.check_state import REMEDY, check_state
from litselect.callbacks.counters import Counters
from litselect.callbacks.kept import load_rated
from litselect.callbacks.process_group import world_size
from litselect.callbacks.proxy_training import ProxyTraining
from litselect.callbacks.rank_buffers import own_buffers
from litselect.callbacks.refill_queue import RefillQueue
from litselect.scoring.random_streams import current_streams
from litselect.selectors import Selector

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule

    from litselect.callbacks.example_selection import ExampleSelection


def selector_name(selector: Selector) -> str:
    """The class of `selector`, with those of the selectors inside it."""
    inner = [selector_name(value) for value in vars(selector).values() if isinstance(value, Selector)]
    return type(selector).__name__ + (f"({', '.join(inner)})" if inner else "")


def gather_ranks(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all ranks, in order. A collective: Lightning asks every rank for its state, and saves one."""
    if world_size() == 1:
        return [own]
    states: list[Any] = [None] * world_size()
    distributed.all_gather_object(states, own)
    return cast("list[dict[str, Any]]", states)


def own_state(
    callback: ExampleSelection, module: LightningModule | None, device: torch.device | None
) -> dict[str, Any]:
    """All that changes while this rank trains: `module`, on `device`, once it does."""
    return {
        "counters": callback.counters.state_dict(),
        "selector": callback.selector.state_dict(),
        "pace": callback.phase.pace.state_dict(),
        "queue": callback.queue.state_dict(),
        "skipped": callback.skipped,
        "checks": callback.checks,
        "verified": callback.verified,
        "reuse_refused": callback.reuse_refused,
        "training_batch_size": callback.training_batch_size,
        "streams": None if device is None else current_streams(device),
        "ratings": {} if callback.ratings is None else callback.ratings.state_dict(),
        "kept_labels": callback.kept_labels.state_dict(),
        "memory": None if callback.memory is None else callback.memory.own_state(),
        "buffers": {} if module is None else own_buffers(module),
        "auto": {} if callback.auto is None else callback.auto.state_dict(),
        "proxy": {} if callback.proxy is None else callback.proxy.state_dict(),
    }


def pick_state(state: dict[str, Any], callback: ExampleSelection, rank: int, world_size: int) -> dict[str, Any]:
    """This rank's part of a checkpoint, less what does not fit the present settings (each with a warning).

    Raises:
        ValueError: if it isn't what `ExampleSelection.state_dict` makes. All ranks' parts are looked at, so that either
            every rank raises or none does.
    """
    _check(state, callback)
    saved, own = state["selector"], selector_name(callback.selector)
    ranks = state["ranks"]
    known = rank < len(ranks)
    picked = {**ranks[rank if known else 0], "proxy": ranks[0]["proxy"]}
    if len(ranks) != world_size:
        warnings.warn(
            f"The checkpoint was made by {len(ranks)} processes, but {world_size} go on from it. Selection continues "
            "with the state of the process of the same rank (the history of rank 0 where there was none); random "
            "streams start afresh, and rows that waited in the refill queues of ranks that are gone are dropped.",
            stacklevel=2,
        )
        picked["streams"] = None
        if "heldout" in picked["ratings"]:
            picked["ratings"] = {**picked["ratings"], "heldout": {**picked["ratings"]["heldout"], "stream": None}}
    if not known:
        picked["counters"], picked["queue"] = Counters().state_dict(), RefillQueue().state_dict()
    if callback.across_ranks:  # all ranks draw the same
        picked["selector"] = ranks[0]["selector"]
    elif not known or (rank and state["across_ranks"]):  # every rank draws for itself
        picked["selector"] = _without_stream(picked["selector"])
    if saved != own:
        warnings.warn(
            f"The checkpoint was made with the selector {saved}, but training goes on with {own}: it starts without a "
            "history. Counters and the refill queue continue.",
            stacklevel=2,
        )
        picked["selector"] = None
    return picked


def _check(state: dict[str, Any], callback: ExampleSelection) -> None:
    check_state(
        f"{type(callback).__name__}", state, {"selector": "", "across_ranks": False, "ranks": [], "memory": None}
    )
    if not state["ranks"]:
        raise ValueError(f"A checkpoint must hold the state of at least one rank, but got none. {REMEDY}")
    for rank, own in enumerate(state["ranks"]):
        check_state(f"rank {rank}", own, own_state(callback, None, None))
        Counters().load_state_dict(own["counters"])
        RefillQueue().load_state_dict(own["queue"])
        check_state("buffers", own["buffers"], dict.fromkeys(own["buffers"], torch.empty(0)))


def load_own(callback: ExampleSelection, state: dict[str, Any], remembered: dict[str, Any] | None) -> None:
    """Let a callback go on from its rank's part of a checkpoint, and from what all ranks knew together."""
    callback.counters.load_state_dict(state["counters"])
    callback.queue.load_state_dict(state["queue"])
    callback.skipped, callback.checks, callback.verified = state["skipped"], state["checks"], state["verified"]
    callback.training_batch_size, callback.reuse_refused = state["training_batch_size"], state["reuse_refused"]
    callback.phase.pace.load_state_dict(state["pace"])
    load_rated(callback, state)
    if state["selector"] is not None:
        load_selector(callback.selector, state["selector"])
    if callback.memory is not None and remembered is not None:
        callback.memory.load_state_dict(remembered, state["memory"])
    if callback.auto is not None and state["auto"]:
        callback.auto.load_state_dict(state["auto"])
        callback.scoring = callback.auto.scoring
    if state["proxy"] and callback.scoring.proxy_optimizer is not None:
        callback.proxy = ProxyTraining(callback.scoring, callback.loss_fn, state["proxy"])


def load_selector(selector: Selector, state: dict[str, Any]) -> None:
    """Let `selector` go on from the state of one of its class.

    Raises:
        ValueError: if it can't.
    """
    try:
        selector.load_state_dict(state)
    except Exception as error:
        raise ValueError(
            f"The state of a selector must be one that {selector!r} can go on from, but got one with "
            f"{', '.join(map(str, state)) or 'nothing'} ({type(error).__name__}: {error}). {REMEDY}"
        ) from error


def _without_stream(state: Any) -> Any:
    """The state of a selector, or of one within another, that begins a random stream of its own."""
    if not isinstance(state, dict):
        return state
    items = cast("dict[str, Any]", state).items()
    return {name: _without_stream(value) for name, value in items if name != "generator"}
