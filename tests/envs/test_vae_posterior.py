"""The VAE's posterior: what it is made of, its truth where it can be integrated, and its weights on disk."""

import pytest
import torch
from safetensors.torch import save_file

from ebbflow.envs import InputError
from ebbflow.envs.targets import Decoder, VAEPosterior


def posterior(latent=1, pixels=3, **settings):
    torch.manual_seed(0)
    return VAEPosterior(Decoder(latent, pixels, width=16), latent, torch.eye(pixels), **settings).double()


def test_it_is_prior_times_likelihood_and_its_evidence_sums_to_one_over_all_images():
    target = posterior()
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64).unsqueeze(1)
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)  # all 8 of 3 pixels
    log_p = torch.stack([target.given(x)(z).logsumexp(0) for x in images]) + (z[1, 0] - z[0, 0]).log()
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-8)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0])
    pixels = torch.distributions.Bernoulli(logits=target.decoder(z)).log_prob(images[5]).sum(-1)
    torch.testing.assert_close(target.given(images[5])(z), normal + pixels)


def test_contexts_are_the_data_the_models_own_images_or_both():
    data = posterior(simulated=0.0).sample_context(50)
    assert bool((data.sum(-1) == 1).all()) and len(data.unique(dim=0)) == 3
    target = posterior(simulated=1.0)
    z, own = target.simulate(20_000)
    assert set(own.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(own.mean(0), target.decoder(z).sigmoid().mean(0), rtol=0, atol=0.02)
    assert not any(p.requires_grad for p in target.parameters())


def test_decoders_come_from_a_file_and_what_is_none_is_named(tmp_path):
    decoder = Decoder(4, 6, width=5)
    save_file({f"decoder.{name}": t for name, t in decoder.state_dict().items()}, str(tmp_path / "vae.safetensors"))
    loaded = Decoder.from_file(tmp_path / "vae.safetensors")
    z = torch.randn(3, 4)
    assert loaded(z).equal(decoder(z))
    save_file({"else": torch.zeros(1)}, str(tmp_path / "other.safetensors"))
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("other", "text", "none"):
        with pytest.raises(InputError, match="decoder: expected a safetensors file with decoder weights"):
            Decoder.from_file(tmp_path / f"{name}.safetensors")
    for images, message in (
        (torch.zeros(3), r"images: expected a tensor \[m >= 1, pixels\], got \[3\]"),
        (torch.full((2, 6), 16.0), r"images: expected values in \[0, 1\]"),
    ):
        with pytest.raises(InputError, match=message):
            VAEPosterior(decoder, 4, images)
    with pytest.raises(InputError, match="simulated: expected a share"):
        VAEPosterior(decoder, 4, torch.zeros(2, 6), simulated=1.5)
