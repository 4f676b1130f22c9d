"""A block of a transformer."""

from torch import Tensor, nn
from torch.nn import functional as F


class TransformerBlock(nn.Module):
    """Attention, then a perceptron; both normalised before and added.

    Args:
        width: of the residual stream.
        heads: of attention.
        causal: whether attention is to what went before alone.
    """

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, L, width]`` to the same."""
        query, key, value = self.mix(self.norms[0](x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.norms[1](x))
