"""The gradient of a held-out loss with respect to the weights of examples trained before.

Calian et al., 2025, "DataRater", https://arxiv.org/abs/2505.17895; Kemaev et al., 2025, "Scalable Meta-Learning via
Mixed-Mode Differentiation", https://arxiv.org/abs/2505.00793, for the adjoint form.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Literal, get_args

from torch import Tensor

from litselect.scoring.meta_gradients.adjoint import adjoint
from litselect.scoring.meta_gradients.agreement import require_agreement
from litselect.scoring.meta_gradients.derivatives import (
    Along,
    Derivative,
    Loss,
    double_backward,
    finite_differences,
    forward_mode,
)
from litselect.scoring.meta_gradients.inner_optimizer import InnerOptimizer
from litselect.scoring.meta_gradients.meta_gradient import MetaGradient
from litselect.scoring.meta_gradients.objective import Objective
from litselect.scoring.meta_gradients.unroll import unroll
from litselect.scoring.meta_gradients.window import Window

log = logging.getLogger(__name__)

Estimator = Literal["auto", "unroll", "adjoint", "jvp", "fd"]
_DIFFERENCES: Final = 0.1  # their error, relative
_LARGE: Final = 5_000_000  # parameters above which the graphs of so many steps are not kept at once
_MANY: Final = 4


class LookAhead:
    r"""Runs windows of training steps, and finds how their weights move the held-out loss.

    ==========  ================================================================  =======================
    estimator   how                                                               memory
    ==========  ================================================================  =======================
    "unroll"    autograd through all steps (``create_graph``); exact              graphs of T steps
    "adjoint"   step by step backwards, Hessian-vector products; exact            graph of one step
    "jvp"       T = 1: one derivative along a direction, no second order; exact   no graph beyond a step's
    "fd"        "adjoint" by central differences                                  no graph beyond a step's
    "auto"      "jvp" for T = 1, else "unroll", from T = 4 on "adjoint" for       of the one that is used
                over 5 million parameters; where an operator refuses, "unroll",
                "adjoint", "fd"
    ==========  ================================================================  =======================

    Buffers count as constants. In the first window derivatives are compared with the gradient, see `agreement`; what
    the ``backward`` of a user's own ``autograd.Function`` computes is believed.

    Cost in plain training steps of the same batches, the rater left out: about 3 for T = 1, 6 for T = 2, 12 for T = 4.

    Args:
        objective: the losses.
        optimizer: of the inner steps.
        estimator: see above.

    Attributes:
        estimator: the one in use; ``"auto"`` until the first window.

    Raises:
        ValueError: if there is no such estimator, or none of half precision.
    """

    def __init__(self, objective: Objective, optimizer: InnerOptimizer, estimator: Estimator = "auto") -> None:
        if estimator not in get_args(Estimator):
            raise ValueError(
                f'Expected estimator to be one of {", ".join(get_args(Estimator))}, but got {estimator!r}. Use "auto".'
            )
        self.objective, self.optimizer = objective, optimizer
        self.estimator: Estimator = estimator
        self._half = getattr(objective, "precision", None) == "bf16"
        self._tolerance = 3e-2 if self._half else 1e-3
        self._exact: Derivative = forward_mode
        self._agree: set[Any] = set()  # what was compared with the gradient

    def __call__(self, window: Window) -> MetaGradient:
        """Train through `window` and differentiate its end.

        Raises:
            ValueError: if "jvp" is asked for with more than one step.
            RuntimeError: if an operator of the model has no derivative of the kind that the estimator needs.
        """
        if self.estimator != "auto":
            return self._run(self.estimator, window)
        *others, last = self._candidates(window)
        for estimator in others:
            try:
                found = self._run(estimator, window)
            except RuntimeError as error:
                log.info('Estimator "%s" is out of the question here: %s', estimator, str(error).partition("\n")[0])
            else:
                return self._settled(estimator, found)
        return self._settled(last, self._run(last, window))

    def _settled(self, estimator: Estimator, found: MetaGradient) -> MetaGradient:
        self.estimator = estimator
        log.info('Meta-gradients are estimated by "%s".', estimator)
        return found

    def _run(self, estimator: Estimator, window: Window) -> MetaGradient:
        if estimator == "unroll":
            found = unroll(self.objective, self.optimizer, window, None if unroll in self._agree else self._tolerance)
            self._agree.add(unroll)
            return found
        if estimator == "fd":
            if self._half:
                raise ValueError(
                    'estimator="fd" takes differences of losses, of which bfloat16 leaves nothing, but '
                    'precision="bf16" was received. Use precision=None, or another estimator.'
                )
            return adjoint(self.objective, self.optimizer, window, self._checked(finite_differences))
        if estimator == "jvp" and len(window.batches) != 1:
            raise ValueError(
                f'estimator="jvp" is exact for one inner step only, but a window of {len(window.batches)} steps was '
                'received. Use estimator="adjoint", or inner_steps=1.'
            )
        try:
            return adjoint(self.objective, self.optimizer, window, self._checked(self._exact))
        except RuntimeError as error:
            if estimator == "jvp" or self._exact is double_backward:
                raise
            log.info("Hessian-vector products are taken by two backward passes: %s", str(error).partition("\n")[0])
            self._exact = double_backward
            return adjoint(self.objective, self.optimizer, window, self._checked(self._exact))

    def _candidates(self, window: Window) -> tuple[Estimator, ...]:
        if len(window.batches) == 1:
            exact: tuple[Estimator, ...] = ("jvp", "unroll")
        else:
            large = len(window.batches) >= _MANY and sum(p.numel() for p in window.start.parameters) > _LARGE
            exact = ("adjoint",) if large else ("unroll", "adjoint")
        return exact if self._half else (*exact, "fd")

    def _checked(self, derivative: Derivative) -> Derivative:
        """Compared with the gradient the first time that it is used."""
        if derivative in self._agree:
            return derivative

        def checked(
            loss: Loss,
            parameters: list[Tensor],
            weights: Tensor,
            gradient: list[Tensor],
            direction: list[Tensor],
            hessian: bool,
        ) -> Along:
            if derivative not in self._agree:
                tolerance = _DIFFERENCES if derivative is finite_differences else self._tolerance
                require_agreement(derivative, loss, parameters, weights, gradient, tolerance)
                self._agree.add(derivative)
            return derivative(loss, parameters, weights, gradient, direction, hessian)

        return checked
