r"""The posterior of a variational autoencoder's latent vector given an image: inference as conditional sampling.

    p(z | x) ∝ R(z | x) = N(z; 0, I) · Π_i Bernoulli(x_i; sigmoid(decoder(z)_i)),    log Z(x) = log p(x)

The context is the image x, of black and white pixels in {0, 1}, the state the latent vector z. An encoder approximates
this posterior by one Gaussian a context; a sampler of it is an encoder without that restriction, and its log Z(x) is
the log-likelihood of the image. Kingma & Welling 2014, *Auto-Encoding Variational Bayes* (arXiv 1312.6114).

Contexts to train on are images of a data set, mixed with images that the model makes up itself: of those there is no
end, so that a sampler does not learn a small data set by heart.
"""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError
from ..spaces import Continuous
from ..target import Target

__all__ = ["Decoder", "VAEPosterior"]

_LOG_TWO_PI = math.log(2.0 * math.pi)


class Decoder(nn.Sequential):
    """Latent vectors to logits of pixels, `[..., latent] -> [..., pixels]`: a perceptron with two hidden layers.

    Example:
        >>> Decoder(latent=8, pixels=64)(torch.zeros(3, 8)).shape
        torch.Size([3, 64])
    """

    def __init__(self, latent: int, pixels: int, width: int = 128) -> None:
        super().__init__(
            nn.Linear(latent, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, pixels)
        )

    @classmethod
    def from_file(cls, path: str | Path) -> "Decoder":
        """A decoder from the tensors `decoder.…` of a safetensors file, which say how large it is.

        Raises:
            InputError: for a file that cannot be read, or is not of such a decoder.
        """
        try:
            found = load_file(str(path))
            weights = {name.removeprefix("decoder."): t for name, t in found.items() if name.startswith("decoder.")}
            decoder = cls(weights["0.weight"].shape[1], weights["4.weight"].shape[0], weights["0.weight"].shape[0])
            decoder.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, IndexError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"decoder: expected a safetensors file with decoder weights, got {path} ({reason})"
            ) from error
        return decoder


class VAEPosterior(Target):
    """p(z | x) of a VAE with Bernoulli pixels; contexts are images `[n, pixels]`, states latent vectors `[n, latent]`.

    Args:
        decoder: latent vectors to logits of pixels, `[..., latent] -> [..., pixels]`; its parameters are not trained.
        latent: number of latent coordinates, >= 1.
        images: the data set, `[m, pixels]`, values in [0, 1].
        simulated: share of the contexts that the model makes up, in [0, 1].

    Raises:
        InputError: for images of a wrong shape or out of range, or a share out of range.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> target = VAEPosterior(Decoder(4, 64), latent=4, images=torch.ones(10, 64))
        >>> image = target.sample_context(2)
        >>> target(torch.zeros(2, 4), image).shape, target.given(image[0])(torch.zeros(5, 4)).shape
        (torch.Size([2]), torch.Size([5]))
    """

    images: Tensor

    def __init__(self, decoder: nn.Module, latent: int, images: Tensor, simulated: float = 0.5) -> None:
        if not isinstance(images, Tensor) or images.ndim != 2 or not len(images):
            got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"images: expected a tensor [m >= 1, pixels], got {got}")
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise InputError("images: expected values in [0, 1]")
        if not 0.0 <= simulated <= 1.0:
            raise InputError(f"simulated: expected a share between 0 and 1, got {simulated!r}")
        super().__init__(Continuous(latent), scale=1.0, name="vae-posterior", context_space=Continuous(images.shape[1]))
        self.decoder = decoder.requires_grad_(False)
        self.simulated = float(simulated)
        self.register_buffer("images", images.detach().clone(), persistent=False)

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        """log N(z; 0, I) + log p(image | z), `[..., latent], [..., pixels] -> [...]`, nats."""
        logits = self.decoder(x)
        log_likelihood = (context * logits - nn.functional.softplus(logits)).sum(-1)
        return log_likelihood - 0.5 * (x.square() + _LOG_TWO_PI).sum(-1)

    def simulate(self, n: int) -> tuple[Tensor, Tensor]:
        """`n` latent vectors of the prior and images of them: `[n, latent]`, `[n, pixels]`.

        Each latent vector is then an exact sample of the posterior given its image.
        """
        z = torch.randn(n, self.space.dim, dtype=self.images.dtype, device=self.images.device)
        with torch.no_grad():
            return z, torch.bernoulli(self.decoder(z).sigmoid())

    def sample_context(self, n: int) -> Tensor:
        """Images of the data set, and the model's own: `[n, pixels]`."""
        data = self.images[torch.randint(len(self.images), (n,), device=self.images.device)]
        own = torch.rand(n, 1, dtype=data.dtype, device=data.device) < self.simulated
        return torch.where(own, self.simulate(n)[1], data)
