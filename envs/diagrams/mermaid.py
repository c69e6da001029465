"""A diagram as mermaid text, which GitHub and many editors draw.

Thick arrows are channels, double-headed ones lossless, dashed lines equal laws; a thin line leads from a variable to
the boxes that have joint access to it.
"""

import re

from .diagram import Box, Diagram, Equal, Lossless, title

__all__ = ["to_mermaid"]


def to_mermaid(diagram: Diagram) -> str:
    """Mermaid text of a flowchart, without a final line break.

    Example:
        >>> from ebbflow.envs.diagrams import get_example
        >>> print(to_mermaid(get_example("cypher")))
        flowchart LR
            A["A"]
            B["B"]
            Ap["A'"]
            A <==>|"Cypher"| B
            A ==>|"Identity"| Ap
            B ==>|"Decrypt"| Ap
    """
    ids: dict[Box, str] = {}
    for box in diagram.boxes:
        word = re.sub(r"\W", "", title(box).replace("'", "p").replace(" × ", "x"), flags=re.ASCII) or "N"
        word = word[0].upper() + word[1:]  # no word of mermaid's own has a capital
        ids[box] = word if word not in ids.values() else f"{word}_{len(ids)}"
    lines = ["flowchart LR"]
    lines += [f"{ids[box]}[{_quoted(title(box))}]" for box in ids]
    lines += [f"{ids[(part,)]} --- {ids[box]}" for box in ids if len(box) > 1 for part in box]
    for edge in diagram.edges:
        first, second = (ids[end] for end in edge.ends)
        if isinstance(edge, Equal):
            label = f"|{_quoted(title(edge.given))}|" if edge.given else ""
            lines.append(f"{first} -.-{label} {second}")
        else:
            arrow = "<==>" if isinstance(edge, Lossless) else "==>"
            lines.append(f"{first} {arrow}|{_quoted(edge.label)}| {second}")
    return "\n    ".join(lines)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "#quot;") + '"'
