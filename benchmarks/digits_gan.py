"""A generator of digits and a judge of them, small enough to train on one core in a few minutes, without a download.

    python benchmarks/digits_gan.py --out runs/digits_gan

trains, on the 1,797 8×8 digits that come with scikit-learn (extra `sklearn`),

- a generator G: z in R^64 → 8×8 pixels in [−1, 1], an unconditional multilayer GAN with the hinge loss (Lim & Ye 2017,
  arXiv 1705.02894), spectral normalisation of the discriminator (Miyato et al. 2018, arXiv 1802.05957), an R1 penalty
  on real images (Mescheder et al. 2018, arXiv 1801.04406) and averaged weights: the averaged generator is what is kept;
- a classifier of the ten classes, held to at least 97 % accuracy on images that it has not seen;

and writes each as a TorchScript archive (.pt), a `torch.export` program (.pt2) and safetensors for the classes named
here, which are the three kinds of file that `ebbflow.envs.load_module` reads, with pictures of generated digits.
`digits_target` puts the two together, latents whose image the classifier takes for the wanted class:

    ebbflow train benchmarks.digits_gan:digits_target --agent.features raw score --out runs/latent
"""

import json
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import tyro
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ebbflow.envs import load_module
from ebbflow.envs.targets import ClassReward, LatentTarget

LATENT = 64
SIDE = 8
CLASSES = 10


class Generator(nn.Module):
    """Latents `[n, latent]` to images `[n, 64]`, pixels in [−1, 1]."""

    def __init__(self, latent: int = LATENT, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, width),
            nn.BatchNorm1d(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, SIDE * SIDE),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images of latents."""
        return self.layers(z)


class Classifier(nn.Module):
    """Images `[n, 64]` to logits `[n, 10]`; `features` is what the last layer reads, `[n, width]`."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(SIDE * SIDE, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.logits = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        return self.logits(self.features(x))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images `[1437, 64]` in [−1, 1] and labels, and held-out ones `[360, 64]`; always the same split."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 8.0 - 1.0, labels, test_size=360, stratify=labels, random_state=0)
    train, test, train_labels, test_labels = (torch.as_tensor(part) for part in parts)
    return train.float(), train_labels, test.float(), test_labels


def jittered(x: Tensor) -> Tensor:
    """Images shifted by one pixel at most, with a little noise: 1,437 images are few."""
    up, left = (int(torch.randint(-1, 2, ())) for _ in range(2))
    grid = nn.functional.pad(x.unflatten(1, (SIDE, SIDE)), (1, 1, 1, 1), value=-1.0)
    moved = grid[:, 1 + up : 1 + up + SIDE, 1 + left : 1 + left + SIDE]
    return moved.flatten(1) + 0.1 * torch.randn_like(x)


def train_classifier(iterations: int = 3000, batch: int = 128) -> tuple[Classifier, float]:
    """The classifier and its accuracy on the held-out images."""
    x, y, test_x, test_y = digits()
    classifier = Classifier()
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for _ in range(iterations):
        rows = torch.randint(len(x), (batch,))
        # Smoothed labels keep log-probabilities of sure errors finite in size: they become the reward.
        loss = nn.functional.cross_entropy(classifier(jittered(x[rows])), y[rows], label_smoothing=0.02)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    classifier.eval().requires_grad_(False)
    return classifier, (classifier(test_x).argmax(1) == test_y).double().mean().item()


def train_gan(iterations: int = 15_000, batch: int = 128, penalty: float = 0.2) -> Generator:
    """The averaged generator of a GAN on the training images."""
    x = digits()[0]
    generator = Generator()
    averaged = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
    layers = [spectral_norm(nn.Linear(a, b)) for a, b in ((SIDE * SIDE, 256), (256, 256), (256, 1))]
    critic = nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1], nn.LeakyReLU(0.2), layers[2])
    to_generate = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.99))
    to_judge = torch.optim.Adam(critic.parameters(), lr=4e-4, betas=(0.5, 0.99))
    for _ in range(iterations):
        real = x[torch.randint(len(x), (batch,))].add(0.05 * torch.randn(batch, SIDE * SIDE)).requires_grad_(True)
        with torch.no_grad():
            fake = generator(torch.randn(batch, LATENT))
        score = critic(real)
        (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
        loss = (1.0 - score).relu().mean() + (1.0 + critic(fake)).relu().mean()
        loss = loss + penalty * slope.square().sum(1).mean()
        to_judge.zero_grad()
        loss.backward()
        to_judge.step()
        fooled = -critic(generator(torch.randn(batch, LATENT))).mean()
        to_generate.zero_grad()
        fooled.backward()
        to_generate.step()
        averaged.update_parameters(generator)
    kept = averaged.module
    assert isinstance(kept, Generator)
    return kept.eval().requires_grad_(False)


def save(module: nn.Module, example: Tensor, folder: Path, name: str) -> None:
    """The module as `name`.pt (TorchScript), `name`.pt2 (exported, any batch size) and `name`.safetensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript still runs, and many archives exist
        torch.jit.save(torch.jit.trace(module, example), folder / f"{name}.pt")
    batch = torch.export.Dim.DYNAMIC
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=({0: batch},)), folder / f"{name}.pt2")
    save_file(module.state_dict(), folder / f"{name}.safetensors")


def digits_target(folder: str | Path = "runs/digits_gan", beta: float = 4.0) -> LatentTarget:
    """Latents of the generator in `folder`, tilted towards a class by the classifier beside it."""
    generator = load_module(Path(folder) / "generator.pt2")
    classifier = load_module(Path(folder) / "classifier.safetensors", code=f"{__name__}:Classifier")
    return LatentTarget(LATENT, generator, ClassReward(classifier), beta, contexts=torch.eye(CLASSES), reward_bound=0.0)


def draw_grid(rows: Tensor, path: Path) -> None:
    """Images `[rows, columns, 64]` as one picture."""
    height, width = rows.shape[:2]
    grid = nn.functional.pad(rows.unflatten(-1, (SIDE, SIDE)), (0, 1, 0, 1), value=1.0)
    picture = grid.permute(0, 2, 1, 3).reshape(height * (SIDE + 1), width * (SIDE + 1))
    plt.imsave(path, picture.repeat_interleave(3, 0).repeat_interleave(3, 1).numpy(), cmap="gray_r", vmin=-1, vmax=1)


def main(out: Path = Path("runs/digits_gan"), seed: int = 0, gan_iterations: int = 15_000) -> None:
    """Train both, write them to `out`, and say how good they are."""
    out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    torch.manual_seed(seed)
    classifier, accuracy = train_classifier()
    save(classifier, torch.zeros(2, SIDE * SIDE), out, "classifier")
    if accuracy < 0.97:
        raise SystemExit(f"classifier: expected a held-out accuracy of at least 0.97, got {accuracy:.3f}")
    torch.manual_seed(seed)  # the generator does not depend on how the classifier was trained
    generator = train_gan(gan_iterations)
    save(generator, torch.zeros(2, LATENT), out, "generator")
    with torch.no_grad():
        images = generator(torch.randn(20_000, LATENT))
        probability = classifier(images).softmax(1)
    confidence, label = probability.max(1)
    shares = torch.bincount(label, minlength=CLASSES) / len(label)
    shown = [images[(label == c) & (confidence > 0)][:16] for c in range(CLASSES)]
    draw_grid(
        torch.stack([nn.functional.pad(x, (0, 0, 0, 16 - len(x)), value=-1.0) for x in shown]), out / "classes.png"
    )
    draw_grid(images[:160].unflatten(0, (10, 16)), out / "prior.png")
    report = {
        "seed": seed,
        "classifier_accuracy": accuracy,
        "class_shares": [round(share, 4) for share in shares.tolist()],
        "mean_confidence": confidence.mean().item(),
        "confident_share": (confidence > 0.9).double().mean().item(),
        "seconds": round(time.perf_counter() - begun),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    tyro.cli(main)
