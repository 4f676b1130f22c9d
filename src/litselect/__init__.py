"""Online example selection for Lightning.

Score every example of a batch with a cheap forward pass, backprop only the chosen ones. The parts live in
`litselect.selectors` (which rows), `litselect.scoring` (where a score comes from) and `litselect.callbacks`
(where it meets a Trainer). This file imports nothing, so that `import litselect.selectors` stays light.
"""

__version__ = "0.1.0"
