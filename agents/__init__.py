"""Who acts: time grid, state features, backbone, reference processes, generation and destruction actors, exploration.

Nothing here knows of targets' densities, buffers or training; a density reaches an agent only as a function.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "actors": ["DestructionHead", "DiracNormal", "GenerationHead"],
        "agent": ["Agent"],
        "architecture": ["build_agent"],
        "backbone": ["Backbone"],
        "bridge_agent": ["BridgeAgent"],
        "bridge_architecture": ["BRIDGE", "build_bridge_agent"],
        "compilation": ["begin_graphs", "check_compiler", "compiled"],
        "config": ["AgentConfig"],
        "decoding": ["decode"],
        "denoising_agent": ["DenoisingAgent"],
        "ebb_and_flow": ["Proposal", "ebb_and_flow"],
        "exploration": ["Exploration"],
        "features": ["StateFeatures"],
        "flow": ["StateFlow"],
        "origin": ["Origin"],
        "point_architecture": ["build_point_agent"],
        "point_network": ["PointNetwork"],
        "policies": ["PathLogProbs", "Policies"],
        "precision": ["MATMUL_PRECISIONS", "HiddenLinear", "set_matmul_precision"],
        "rollout": ["rollout_destruction", "rollout_generation"],
        "time_grid": ["TimeGrid"],
        "token_architecture": ["build_token_agent"],
        "token_network": ["TokenNetwork"],
    },
)
