"""The ways to train that are compared, each as an addition to the command line of a setting."""

TWICE = "_twice"

_RATED = ("selection=rated", "selection.runs=inf")
_HELDOUT = ("selection=rated", "selection.source=heldout_model")
_WITHIN_CLASS = ("selection.within_class=true", "selection.temperature=0.1")
_SHORT = ("meta.population=1", "meta.inner_steps=1", "meta.meta_steps=100", "meta.lifetime=100")

ARMS: dict[str, tuple[str, ...]] = {
    "uniform": ("selection=uniform",),
    "uniform_with_heldout": ("selection=uniform", "data.heldout_trained=true"),
    "random_subset": ("selection=random_subset",),
    "selective_backprop": ("selection=selective_backprop_pass",),
    "reducible_loss": ("selection=reducible_loss",),
    "heldout_model_hard": (*_HELDOUT, "selection.runs=inf", "selection.hard=true"),
    "heldout_model_drawn": (*_HELDOUT, "selection.runs=inf"),
    "heldout_model_within_class": (*_HELDOUT, "selection.runs=inf", *_WITHIN_CLASS),
    "datarater_drawn": _RATED,
    "datarater_within_class": (*_RATED, *_WITHIN_CLASS),
    "datarater_hard": ("selection=datarater_paper", "selection.runs=inf"),
    "datarater_online": ("selection=datarater",),
    "oracle": ("selection=rated", "selection.source=truth"),
    # at twice the budget, of which a rater that is trained for little takes its part
    "uniform_twice": ("selection=uniform",),
    "heldout_model_drawn_twice": _HELDOUT,
    "datarater_online_twice": ("selection=datarater",),
    "datarater_counted_twice": ("selection=rated", *_SHORT),
}

MEANING = {
    "uniform": "plain training",
    "uniform_with_heldout": "plain training, the held-out rows added",
    "random_subset": "half of every batch, by chance",
    "selective_backprop": "Selective-Backprop",
    "reducible_loss": "RHO-LOSS, its model of the held-out rows counted",
    "heldout_model_hard": "lowest losses of a model of the held-out rows, not counted",
    "heldout_model_drawn": "drawn by these losses, model not counted",
    "heldout_model_within_class": "drawn by their ranks within the class, model not counted",
    "datarater_drawn": "DataRater, drawn, rater not counted",
    "datarater_within_class": "DataRater, drawn by ranks within the class, rater not counted",
    "datarater_hard": "DataRater, the best half as in the paper, rater not counted",
    "datarater_online": "DataRater beside the training, counted",
    "oracle": "clean rows only, by the truth",
    "uniform_twice": "plain training",
    "heldout_model_drawn_twice": "drawn by the losses of a model of the held-out rows, counted",
    "datarater_online_twice": "DataRater beside the training, counted",
    "datarater_counted_twice": "DataRater, drawn, a short training of the rater counted",
}
