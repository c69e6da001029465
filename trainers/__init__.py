"""How it learns and is judged: objectives, trainer, evaluation, checkpoint, configuration, command line, figures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["find_runs", "group_runs"],
        "config": ["TrainConfig"],
        "evaluation": ["evaluate"],
        "exact_likelihood": ["exact_bound", "exact_law"],
        "fit": ["FitResult", "fit"],
        "likelihood": ["LikelihoodBound", "likelihood_bound"],
        "many_runs": ["ManyRuns"],
        "ranks": ["Ranks"],
        "trainer": ["Trainer"],
    },
)
