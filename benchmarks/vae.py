"""A VAE's posterior over handwritten digits: the conditional sampler against the VAE's own Gaussian encoder.

    python benchmarks/vae.py train --weights runs/vae/vae.safetensors
    python benchmarks/vae.py truth --weights runs/vae/vae.safetensors
    python benchmarks/vae.py run --weights runs/vae/vae.safetensors --rows benchmarks/results/vae.jsonl --seeds 0 1 2
    python benchmarks/vae.py table --rows benchmarks/results/vae.jsonl --out benchmarks/results/vae.md

The data are scikit-learn's 8×8 digits, black where a pixel is at least half on; 1,437 to train on, 360 held out.
`train` fits the VAE (seed 0), `truth` estimates log p(x) of 20 held-out images by annealed SMC, and `run` trains the
sampler and judges it and the encoders on those images.
The encoder is judged as it came out of the VAE's training, and refined with the decoder fixed on the very contexts that
the sampler learns from, so that both have seen the same.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ebbflow.buffers.annealing import annealed_smc
from ebbflow.envs.targets.vae_posterior import Decoder, VAEPosterior
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.evaluation import evaluate, sample_agent
from ebbflow.trainers.metrics.weights import log_mean_exp
from ebbflow.trainers.trainer import Trainer

LATENT, PIXELS = 10, 64
HELD_OUT = 20


def digits() -> tuple[Tensor, Tensor]:
    """Black and white digits, `[1437, 64]` and `[360, 64]` held out."""
    images = (torch.from_numpy(load_digits().data) >= 8).float()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order[:1437]], images[order[1437:]]


class VAE(nn.Module):
    """Gaussian encoder and Bernoulli decoder."""

    def __init__(self) -> None:
        super().__init__()
        width = 128
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * LATENT)
        )
        self.decoder = Decoder(LATENT, PIXELS, width)

    def log_weights(self, x: Tensor, samples: int) -> Tensor:
        """log p(x, z) − log q(z | x) of `samples` z ~ q for each image, `[samples, n]`; the ELBO is their mean."""
        mean, log_std = self.encoder(x).chunk(2, dim=-1)
        noise = torch.randn(samples, *mean.shape)
        z = mean + log_std.exp() * noise
        logits = self.decoder(z)
        log_likelihood = (x * logits - nn.functional.softplus(logits)).sum(-1)
        return log_likelihood + (-0.5 * z.square() + 0.5 * noise.square() + log_std).sum(-1)


def fit_elbo(vae: VAE, parameters: list[nn.Parameter], draw: Any, steps: int, rate: float) -> None:
    """Adam with cosine decay on minus the ELBO of the images that `draw` gives."""
    optimiser = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (-vae.log_weights(draw(), 1).mean()).backward()
        optimiser.step()
        schedule.step()


def train(weights: Path = Path("runs/vae/vae.safetensors"), steps: int = 6000, seed: int = 0) -> None:
    """Train the VAE, refine a copy of its encoder, and write all weights."""
    torch.manual_seed(seed)
    begun = time.perf_counter()
    images, held_out = digits()
    vae = VAE()
    fit_elbo(vae, list(vae.parameters()), lambda: images[torch.randint(len(images), (128,))], steps, 2e-3)
    tensors = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    posterior = VAEPosterior(vae.decoder, LATENT, images)
    fit_elbo(vae, list(vae.encoder.parameters()), lambda: posterior.sample_context(256), steps, 2e-3)
    tensors |= {f"refined.{name}": t for name, t in vae.state_dict().items() if name.startswith("encoder")}
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(weights))
    for name in ("encoder", "refined"):
        with torch.no_grad():
            judged = load_vae(weights, refined=name == "refined")
            found = [float(judged.log_weights(part, 50).mean()) for part in (images, held_out)]
        print(f"{name}: ELBO {found[0]:.2f} on training images, {found[1]:.2f} on held-out ones")
    print(f"{weights}, {time.perf_counter() - begun:.0f} s")


def load_vae(weights: Path, refined: bool = False) -> VAE:
    """The VAE, with the encoder as trained or refined."""
    tensors = load_file(str(weights))
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("refined.")}
    if refined:
        own |= {name.removeprefix("refined."): t for name, t in tensors.items() if name.startswith("refined.")}
    vae = VAE()
    vae.load_state_dict(own)
    return vae


def config(seed: int, settings: dict[str, Any]) -> TrainConfig:
    """The sampler's settings, which suit posteriors that are one blurred region each.

    Reverse KL by reparametrised paths is the encoder's own objective, and finds such regions fastest; the policies read
    the score, which tells of images never seen; there is nothing to explore or to remember.
    """
    own = {
        "target": "vae-posterior",
        "steps": 5,
        "iterations": 4000,
        "batch_size": 128,
        "contexts_per_batch": 64,
        "objective": "reverse_kl",
        "destruction_objective": "tlm",
        "agent": {"features": ["raw", "score"], "langevin": True},
        "exploration": {"scale": 1.0},
        "replay": {"share": 0.0},
        "threads": 1,
    }
    return TrainConfig.from_dict(own | settings | {"seed": seed}, origin="settings")


def truth(weights: Path = Path("runs/vae/vae.safetensors"), particles: int = 1000, temperatures: int = 100) -> None:
    """log p(x) of each held-out image, by two runs of annealed SMC, into a .json file beside the weights."""
    torch.set_num_threads(1)
    images, held_out = digits()
    target = VAEPosterior(Decoder.from_file(weights), LATENT, images)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"initial_std": 1.0, "temperatures": temperatures}
    runs = [[annealed_smc(target.given(x), particles, **settings).log_z for x in held_out[:HELD_OUT]] for _ in range(2)]
    found = {
        "log_p": [statistics.fmean(pair) for pair in zip(*runs, strict=True)],
        "apart": statistics.fmean(abs(a - b) for a, b in zip(*runs, strict=True)),
        "energy_calls": target.energy_calls,
    }
    weights.with_suffix(".json").write_text(json.dumps(found))
    print(f"log p(x): two runs are {found['apart']:.3f} nats apart on average; {found['energy_calls']} energy calls")


def run(
    weights: Path = Path("runs/vae/vae.safetensors"),
    rows: Path = Path("benchmarks/results/vae.jsonl"),
    seeds: tuple[int, ...] = (0, 1, 2),
    settings: str = "{}",
    label: str = "recipe",
    picture: Path | None = None,
) -> None:
    """Train the sampler for each seed, and append a row with the numbers of sampler, encoders and annealed SMC."""
    torch.set_num_threads(1)
    images, held_out = digits()
    held_out = held_out[:HELD_OUT]
    decoder = Decoder.from_file(weights)
    exact = json.loads(weights.with_suffix(".json").read_text())
    log_p = exact["log_p"]
    for seed in seeds:
        target = VAEPosterior(decoder, LATENT, images)
        trainer = Trainer(target, config(seed, json.loads(settings)))
        trainer.train()
        found = evaluate(trainer.evaluated_agent, target, samples=2000 * HELD_OUT, contexts=held_out, seed=seed)
        row: dict[str, Any] = {
            "label": label,
            "seed": seed,
            "log_p": statistics.fmean(log_p),
            "log_p_apart": exact["apart"],
            "sampler_elbo": found["elbo"],
            "sampler_elbo_stderr": found["elbo_stderr"],
            "sampler_iw": found["log_z"],
            "sampler_ess": found["ess_reverse"],
            "sampler_iw_error": statistics.fmean(
                abs(one["log_z"] - exact) for one, exact in zip(found["contexts"], log_p, strict=True)
            ),
            "seconds": trainer.seconds,
            "settings": settings,
        }
        torch.manual_seed(seed)
        for name in ("encoder", "refined"):
            with torch.no_grad():
                log_weight = load_vae(weights, refined=name == "refined").log_weights(held_out, 2000)
            estimates = [log_mean_exp(column) for column in log_weight.T]
            elbos = log_weight.mean(0).tolist()
            row |= {
                f"{name}_elbo": statistics.fmean(elbos),
                f"{name}_iw": statistics.fmean(estimates),
                f"{name}_iw_error": statistics.fmean(abs(a - b) for a, b in zip(estimates, log_p, strict=True)),
                f"{name}_ess": statistics.fmean(
                    float((2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp()) / len(w) for w in log_weight.T
                ),
            }
            if name == "refined":
                row["wins"] = sum(one["elbo"] > elbo for one, elbo in zip(found["contexts"], elbos, strict=True))
        rows.parent.mkdir(parents=True, exist_ok=True)
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
        if picture is not None and seed == seeds[0]:
            draw(picture, trainer, target, held_out[:10])


def draw(path: Path, trainer: Trainer, target: VAEPosterior, images: Tensor) -> None:
    """A grid: in each row an image, then the decoder's means of eight latent vectors sampled given it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    torch.manual_seed(0)
    figure, axes = pyplot.subplots(len(images), 9, figsize=(9, len(images)))
    for image, row in zip(images, axes, strict=True):
        z = sample_agent(trainer.evaluated_agent.given(image), target.given(image), 8)["x"]
        for shown, axis in zip([image, *target.decoder(z).sigmoid()], row, strict=True):
            axis.imshow(shown.reshape(8, 8).detach(), cmap="gray_r", vmin=0, vmax=1)
            axis.set_axis_off()
    axes[0, 0].set_title("image")
    axes[0, 4].set_title("decoded samples of p(z | x)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def table(rows: Path = Path("benchmarks/results/vae.jsonl"), out: Path | None = None) -> None:
    """Markdown table, mean ± standard deviation over seeds, nats; relative to log p(x) by annealed SMC."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        groups.setdefault(row["label"], []).append(row)
    lines = [
        "Made by `python benchmarks/vae.py table`, from rows of `train`, `truth` and `run` (module docstring). Nats, "
        "means over 20 held-out digits, mean ± standard deviation over seeds of the sampler (of one VAE, seed 0). "
        "The sampler's settings were found on seed 0 and these images. [Samples](vae.png) of seed 0, decoded.\n",
        "| approximation of p(z \\| x) | seeds | ELBO − log p(x) | IW (2,000 draws) − log p(x) | abs. IW error | ESS |",
        "|---|---|---|---|---|---|",
    ]

    def cell(values: list[float], digits: int) -> str:
        mean = f"{statistics.fmean(values):.{digits}f}"
        return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"

    for label, group in groups.items():
        for name, title in (
            ("sampler", f"sampler, T = 5 ({label})"),
            ("encoder", "the VAE's encoder"),
            ("refined", "encoder refined on the sampler's contexts"),
        ):
            lines.append(
                f"| {title} | {', '.join(str(r['seed']) for r in group)} | "
                f"{cell([r[f'{name}_elbo'] - r['log_p'] for r in group], 3)} | "
                f"{cell([r[f'{name}_iw'] - r['log_p'] for r in group], 3)} | "
                f"{cell([r[f'{name}_iw_error'] for r in group], 3)} | {cell([r[f'{name}_ess'] for r in group], 3)} |"
            )
        wins = ", ".join(f"{r['wins']} of {HELD_OUT}" for r in group)
        seconds = ", ".join(f"{r['seconds']:.0f}" for r in group)
        lines.append(
            f"\nlog p(x) by annealed SMC, mean over the images: {group[0]['log_p']:.3f} nats, of which two runs are "
            f"{group[0]['log_p_apart']:.3f} apart on average. Held-out images on "
            f"which the sampler's ELBO is above the refined encoder's: {wins}. Training: {seconds} s.\n"
        )
    text = "\n".join(lines) + "\n"
    print(text) if out is None else out.write_text(text)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"train": train, "truth": truth, "run": run, "table": table})
