"""All that is measured on one device, part by part."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments.allocator import keep_memory
from experiments.build import build
from experiments.data import Source
from experiments.records import Row
from experiments.step_costs import data_path, fidelity, freed_memory, ledger_sizes, scaling
from experiments.step_costs.arm import Plan
from experiments.step_costs.measurement import Group
from experiments.step_costs.models import Subject
from experiments.step_costs.store import Store
from experiments.step_costs.trace import export


class Study:
    """Measures what a config asks for; what `store` has is not measured again.

    Args:
        config: as composed from `conf/speed.yaml`.
        store: of the results.
    """

    def __init__(self, config: DictConfig, store: Store) -> None:
        self.config, self.store, self.device = config, store, str(config.device)
        self.keeps = [Fraction(str(keep)) for keep in config.keeps]
        self.keep = Fraction(str(config.scaling.keep))
        self.plan = Plan(self.device, config.rounds, config.steps, config.discard, config.memory)

    def subject(self, name: str) -> Subject:
        """A network in the size for the device."""
        settings = _plain(self.config.sizes[self.device][name])
        return Subject(name, settings.pop("rows"), settings)

    def results(self) -> list[Row]:
        """What selected steps take."""
        config, rows = self.config, list[Row]()
        measures = _plain(config.keeps), _plain(config.options), vars(self.plan)
        compiled = self.device == "cuda" if config.compiled == "auto" else bool(config.compiled)
        for name in config.models:
            for precision in config.precisions:
                for one in (False, True) if compiled else (False,):
                    subject = self.subject(name)
                    settings = {"measures": measures, "subject": _described(subject)}
                    part = f"{name}-{precision}" + ("-compiled" if one else "")
                    group = (self.plan, subject, str(precision), list(config.options))
                    rows += self.store.rows(
                        part, settings, lambda group=group, one=one: Group(*group, compiled=one).rows(self.keeps)
                    )
        return rows

    def others(self) -> Iterator[tuple[str, list[Row]]]:
        """What is not a step of a network, as far as it is asked for."""
        config = self.config
        asked: dict[str, Any] = {
            "sizes": self._sizes, "history": self._history, "ledger": self._ledger, "fidelity": self._fidelity,
            "data_path": self._data_path, "freed_memory": self._freed_memory,
        }  # fmt: skip
        for name, measure in asked.items():
            if name in config.others:
                settings = {key: _plain(config[key]) for key in _SETTINGS[name]}
                if name == "fidelity":
                    settings["subjects"] = {model: _described(self.subject(model)) for model in config.models}
                yield name, self.store.rows(name, settings, measure)

    def traces(self, folder: Path) -> list[Path]:
        """Profiles of all networks, with the first option."""
        config = self.config
        return [
            export(self.subject(name), precision, config.options[0], float(self.keep), self.device, folder)
            for name in config.models
            for precision in config.precisions
        ]

    def _sizes(self) -> list[Row]:
        own = self.config.scaling
        plan = Plan(self.device, own.rounds, own.steps, self.config.discard, False)
        widths, sizes = scaling.mlps(own.rows, own.width), scaling.mlps_by_size(own.parameters, own.batch)
        return [
            *scaling.by_subject(plan, widths, own.options, self.keep, "N"),
            *scaling.by_subject(plan, sizes, own.options, self.keep, "parameters"),
        ]

    def _history(self) -> list[Row]:
        own = self.config.scaling
        return scaling.by_history(own.history, own.batch, own.rounds, self.device)

    def _ledger(self) -> list[Row]:
        return ledger_sizes.measure(self.config.scaling.ledger, self.config.scaling.ledger_rounds)

    def _fidelity(self) -> list[Row]:
        own, rows = self.config.fidelity, list[Row]()
        for name in self.config.models:
            subject = self.subject(name)
            data = fidelity.text(subject.settings["length"], own.rows) if subject.text else self._pictures
            rows += fidelity.measure(
                subject, data, self.config.options, self.keeps, epochs=own.epochs, device=self.device
            )
        return rows

    @cached_property
    def _pictures(self) -> tuple[Tensor, Tensor]:
        source: Source = build(self.config, "data")
        return fidelity.pictures(source.read()[0], self.config.fidelity.rows)

    def _data_path(self) -> list[Row]:
        own = self.config.data_path
        subject = Subject("mlp", own.rows, {"width": own.width, "depth": 1})
        return data_path.measure(
            subject,
            list(own.options),
            self.keep,
            batches=own.batches,
            side=own.side,
            rounds=own.rounds,
            device=self.device,
        )

    def _freed_memory(self) -> list[Row]:
        if self.device != "cpu" or not keep_memory():
            return []
        own = self.config.freed_memory
        subjects = [self.subject(name) for name in own.models]
        subjects = [replace(one, rows=times * one.rows) for one in subjects for times in own.times]
        return freed_memory.measure(subjects, list(own.options), self.keep, self.config.threads)


_SETTINGS = {
    "sizes": ("scaling",), "history": ("scaling",), "ledger": ("scaling",),
    "fidelity": ("fidelity", "data", "keeps", "options"), "data_path": ("data_path", "scaling"),
    "freed_memory": ("freed_memory", "sizes", "scaling"),
}  # fmt: skip


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def _described(subject: Subject) -> dict[str, Any]:
    return {"rows": subject.rows, **subject.settings}
