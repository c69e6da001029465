"""What is remembered: replay of the agent's own states, its priorities, anchors found without the agent, local search.

Buffers know targets and state spaces, but no policies and no training.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "anchors": ["Anchors"],
        "annealing": ["annealed_smc"],
        "conditional_annealing": ["annealed_smc_by_context"],
        "context_groups": ["context_keys", "draw_companions", "numbered"],
        "langevin": ["Chains", "Tempered", "adapted_move", "langevin_move"],
        "local_length": ["local_length"],
        "local_search": ["EbbAndFlowSearch", "LangevinSearch", "LocalSearch"],
        "many_anchors": ["ManyAnchors"],
        "many_replays": ["ManyReplays"],
        "priorities": ["PRIORITIES", "Priority", "get_priority"],
        "priority_sampler": ["PrioritySampler"],
        "replay": ["Replay"],
    },
)
