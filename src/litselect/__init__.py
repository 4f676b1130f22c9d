"""Online example selection for Lightning.

Backprop only the examples of a batch that are worth it, by remembered losses or a cheap forward pass. The parts live in
`litselect.selectors` (which rows), `litselect.scoring` (where a score comes from) and `litselect.callbacks`
(where it meets a Trainer). This file imports nothing, so that `import litselect.selectors` stays light.
"""

__version__ = "0.1.0"
