"""The gradient of a held-out loss with respect to the weights of examples trained before.

Calian et al., 2025, "DataRater", https://arxiv.org/abs/2505.17895; Kemaev et al., 2025, "Scalable Meta-Learning via
Mixed-Mode Differentiation", https://arxiv.org/abs/2505.00793, for the adjoint form.
"""

from __future__ import annotations

import logging
from typing import Final, Literal, get_args

from litselect.scoring.meta_gradients.adjoint import adjoint
from litselect.scoring.meta_gradients.derivatives import double_backward, finite_differences, forward_mode
from litselect.scoring.meta_gradients.inner_optimizer import InnerOptimizer
from litselect.scoring.meta_gradients.meta_gradient import MetaGradient
from litselect.scoring.meta_gradients.objective import Objective
from litselect.scoring.meta_gradients.unroll import unroll
from litselect.scoring.meta_gradients.window import Window

log = logging.getLogger(__name__)

Estimator = Literal["auto", "unroll", "adjoint", "jvp", "fd"]
_LARGE: Final = 5_000_000  # parameters above which the graphs of several steps are not kept at once


class LookAhead:
    r"""Runs windows of training steps, and finds how their weights move the held-out loss.

    ==========  ================================================================  =======================
    estimator   how                                                               memory
    ==========  ================================================================  =======================
    "unroll"    autograd through all steps (``create_graph``); exact              graphs of T steps
    "adjoint"   step by step backwards, Hessian-vector products; exact            graph of one step
    "jvp"       T = 1: one derivative along a direction, no second order; exact   no graph beyond a step's
    "fd"        "adjoint" by central differences                                  no graph beyond a step's
    "auto"      "jvp" for T = 1, else "unroll", above 5 million parameters
                "adjoint"; the next of these where an operator refuses            of the one that is used
    ==========  ================================================================  =======================

    Cost in plain training steps of the same batches, the rater left out: about 3 for T = 1, 6 for T = 2, 12 for T = 4.

    Args:
        objective: the losses.
        optimizer: of the inner steps.
        estimator: see above.

    Attributes:
        estimator: the one in use; ``"auto"`` until the first window.

    Raises:
        ValueError: if there is no such estimator.
    """

    def __init__(self, objective: Objective, optimizer: InnerOptimizer, estimator: Estimator = "auto") -> None:
        if estimator not in get_args(Estimator):
            raise ValueError(
                f"Expected estimator to be one of {', '.join(get_args(Estimator))}, but got {estimator!r}."
            )
        self.objective, self.optimizer = objective, optimizer
        self.estimator: Estimator = estimator

    def __call__(self, window: Window) -> MetaGradient:
        """Train through `window` and differentiate its end.

        Raises:
            ValueError: if "jvp" is asked for with more than one step.
            RuntimeError: if an operator of the model has no derivative of the kind that the estimator needs.
        """
        if self.estimator != "auto":
            return self._run(self.estimator, window)
        first, *others = _candidates(window)
        for estimator in (first, *others[:-1]):
            try:
                found = self._run(estimator, window)
            except RuntimeError as error:
                log.info('Estimator "%s" is out of the question here: %s', estimator, str(error).partition("\n")[0])
            else:
                return self._settled(estimator, found)
        return self._settled(others[-1], self._run(others[-1], window))

    def _settled(self, estimator: Estimator, found: MetaGradient) -> MetaGradient:
        self.estimator = estimator
        log.info('Meta-gradients are estimated by "%s".', estimator)
        return found

    def _run(self, estimator: Estimator, window: Window) -> MetaGradient:
        if estimator == "unroll":
            return unroll(self.objective, self.optimizer, window)
        if estimator == "fd":
            return adjoint(self.objective, self.optimizer, window, finite_differences)
        if estimator == "jvp" and len(window.batches) != 1:
            raise ValueError(
                f'estimator="jvp" is exact for one inner step only, but a window of {len(window.batches)} steps was '
                'received. Use estimator="adjoint", or inner_steps=1.'
            )
        try:
            return adjoint(self.objective, self.optimizer, window, forward_mode)
        except NotImplementedError:
            if estimator == "jvp":
                raise
            return adjoint(self.objective, self.optimizer, window, double_backward)


def _candidates(window: Window) -> tuple[Estimator, ...]:
    if len(window.batches) == 1:
        return "jvp", "unroll", "fd"
    large = sum(p.numel() for p in window.start.parameters) > _LARGE
    return ("adjoint", "fd") if large else ("unroll", "adjoint", "fd")
