"""How to destroy points and images, a file each: by noise, by deterministic transforms, and by bijections: not at all.

| reference               | a step destroys                        | fully destroyed  | step density | deterministic |
|-------------------------|----------------------------------------|------------------|--------------|---------------|
| `GaussianNoise`         | by shrinking and noise, a Markov chain | N(0, s²), or 0   | yes          | no            |
| `GaussianInterpolation` | the same levels, not a Markov chain    | N(0, s²)         | if η > 0     | no            |
| `ColdTransform`         | what it drops: `blur`, `pixelate`      | given, or a point| no           | yes           |
| `Bijection`             | nothing                                | must be given    | no           | yes           |

A generation step is made of a guess `[..., dim]` of the sample, or of the noise.
Source: Noël, *Destruction is a General Strategy to Learn Generation* (https://arxiv.org/abs/2605.30553).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bijection": ["Bijection", "random_permutations", "random_rotations"],
        "blur": ["blur"],
        "catalogue": ["CONTINUOUS_REFERENCES", "get_continuous_reference"],
        "cold": ["ColdTransform"],
        "gaussian_interpolation": ["GaussianInterpolation"],
        "gaussian_noise": ["GaussianNoise"],
        "information": ["Kept", "information_kept"],
        "linear_transform": ["LinearTransform"],
        "pixelate": ["pixelate"],
        "reference": ["ContinuousReference"],
    },
)
