"""The gymnasium ids of the built-in densities, `ebbflow/<name>-v0`; torch is imported only when one of them is made.

Data have no id: they have no density, and so there is no reward at the end of a walk. Nor have densities of sequences:
environments walk in continuous spaces.
"""

from gymnasium.envs.registration import register, registry

from .registry import BUILT_IN

__all__ = ["register_environments"]


def register_environments() -> None:
    """Register `ebbflow/<name>-v0` for every built-in density, once; importing `ebbflow.envs` does this.

    Example:
        >>> import gymnasium
        >>> "ebbflow/gmm25-v0" in gymnasium.registry
        True
    """
    for name in BUILT_IN:
        if f"ebbflow/{name}-v0" not in registry:
            register(
                id=f"ebbflow/{name}-v0",
                entry_point="ebbflow.envs.gymnasium:SamplingEnv",
                vector_entry_point="ebbflow.envs.gymnasium:VectorSamplingEnv",
                kwargs={"target": name},
            )
