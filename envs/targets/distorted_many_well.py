r"""The distorted many-well: no coordinate knows a well by itself.

    x = A y,    y many-well,    A = Q diag(s),    Q orthogonal, s_i of about 1/2 to 2 with product 1

The linear map keeps volumes, so the normalising constant and the masses of the wells are those of the many-well; but
the wells lie across all coordinates, and every direction has a length of its own. A density of that name is mentioned
in the literature on diffusion samplers; as no definition was at hand, this one is the project's stand-in for it.
"""

import torch
from torch import Tensor

from .exact_constants import ExactConstants
from .many_well import ManyWell

__all__ = ["DistortedManyWell"]


class DistortedManyWell(ManyWell):
    """The many-well behind a random rotation and random lengths; the wells are still those of `a` and `b` in y.

    Q is uniform over the orthogonal matrices; the logarithms of s are uniform, less their mean.

    Args:
        dim: number of coordinates, even and >= 2.
        sharpness: of the wells, from 1 to 50, see `ManyWell`.
        seed: seed of the local CPU generator that draws Q and then s, in float64; the benchmark is seed 0.

    Raises:
        InputError: if `dim` is not an even whole number >= 2, or `sharpness` is out of range.

    Example:
        >>> target = DistortedManyWell(dim=32)
        >>> round(target.log_z, 3), target(torch.zeros(1, 32))
        (164.696, tensor([0.]))
        >>> target.right_masses(target.sample(20_000)).mean() > 0.84
        tensor(True)
    """

    def __init__(self, dim: int = 32, sharpness: float = 1.0, seed: int = 0) -> None:
        super().__init__(dim, sharpness)
        generator = torch.Generator().manual_seed(seed)
        factor, triangle = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
        rotation = factor * triangle.diagonal().sign()  # uniform; without the signs it is not (Mezzadri 2007)
        octaves = 2.0 * torch.rand(dim, generator=generator, dtype=torch.float64) - 1.0
        lengths = 2.0 ** (octaves - octaves.mean())
        self.scale *= lengths.square().mean().sqrt().item()
        self.name = self.name.replace("manywell", "manywell-distorted") + (f"-seed{seed}" if seed else "")
        self._map = ExactConstants(forth=rotation * lengths, back=rotation.mT / lengths[:, None])

    def _straightened(self, x: Tensor) -> Tensor:
        """y of x, `[..., dim] -> [..., dim]`."""
        return x @ self._map.like(x)["back"].mT

    def log_prob(self, x: Tensor) -> Tensor:
        """Unnormalised log density, `[..., dim] -> [...]`."""
        return super().log_prob(self._straightened(x))

    def sample(self, n: int) -> Tensor:
        """`n` independent samples, `[n, dim]`, as exact as the many-well's."""
        y = super().sample(n)
        return y @ self._map.like(y)["forth"].mT

    def mode_membership(self, x: Tensor) -> Tensor:
        """Left and right well of each pair of y in turn, `[n, dim] -> [n, dim]` bool."""
        return super().mode_membership(self._straightened(x))
