"""How to destroy sequences of tokens, a file each: masking and shuffling, behind one interface.

| reference          | a step destroys                            | fully destroyed | deterministic |
|--------------------|--------------------------------------------|-----------------|---------------|
| `MaskOneRandom`    | one token out of those left, at random     | all masked      | no            |
| `MaskInOrder`      | one token, in a stated order               | all masked      | yes           |
| `MaskMixture`      | one token, in one of several orders        | all masked      | no            |
| `MaskLearnedOrder` | one token, by a network                    | all masked      | no            |
| `ShuffleOneToken`  | one token at random, through a channel     | noise           | no            |
| `ShuffleEveryToken`| every token a little, through a channel    | noise           | no            |

`mask_last` is the order of autoregression. Source of the names: Noël, *Destruction is a General Strategy to Learn
Generation* (https://arxiv.org/abs/2605.30553).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalogue": ["TOKEN_REFERENCES", "get_token_reference"],
        "mask_in_order": ["MaskInOrder", "mask_last"],
        "mask_learned_order": ["MaskLearnedOrder"],
        "mask_mixture": ["MaskMixture"],
        "mask_one_random": ["MaskOneRandom"],
        "masking": ["Masking"],
        "one_position": ["OnePosition"],
        "reference": ["TokenReference"],
        "shuffle_every_token": ["ShuffleEveryToken"],
        "shuffle_one_token": ["ShuffleOneToken"],
        "token_channel": ["TokenChannel"],
    },
)
