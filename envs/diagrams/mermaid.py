"""A diagram as mermaid text, which GitHub and many editors draw.

Thick arrows are channels, double-headed ones lossless, dashed lines equal laws; a thin line leads from a variable to
the boxes that have joint access to it.
"""

from ..channels.joint import names_of
from .diagram import Arrow, Diagram, End, Equal, Lossless, title

__all__ = ["ends_of", "to_mermaid"]


def ends_of(diagram: Diagram) -> list[tuple[str, ...]]:
    """The boxes of a diagram: its variables, then what has joint access to several of them, each once.

    Example:
        >>> from ebbflow.envs.diagrams import get_example
        >>> ends_of(get_example("product"))
        [('A',), ('coin',), ("A'",), ('A', 'coin')]
    """
    boxes: list[tuple[str, ...]] = [(name,) for name in diagram.variables]
    for edge in diagram.edges:
        ends = (edge.first, edge.second) if isinstance(edge, Equal) else (edge.source, edge.target)
        boxes += [names_of(end) for end in ends]
    return list(dict.fromkeys(boxes))


def to_mermaid(diagram: Diagram) -> str:
    """Mermaid text of a flowchart, without a final line break.

    Example:
        >>> from ebbflow.envs.diagrams import get_example
        >>> print(to_mermaid(get_example("cypher")))
        flowchart LR
            A["A"]
            B["B"]
            C["A'"]
            A <==>|"Cypher"| B
            A ==>|"Identity"| C
            B ==>|"Decrypt"| C
    """
    boxes = ends_of(diagram)
    ids = {box: chr(ord("A") + place) if place < 26 else f"N{place}" for place, box in enumerate(boxes)}

    def box(end: End) -> str:
        return ids[names_of(end)]

    lines = ["flowchart LR"]
    lines += [f"{ids[names]}[{_quoted(title(names))}]" for names in boxes]
    lines += [f"{ids[(part,)]} --- {ids[names]}" for names in boxes if len(names) > 1 for part in names]
    for edge in diagram.edges:
        if isinstance(edge, Arrow):
            arrow = "<==>" if isinstance(edge, Lossless) else "==>"
            lines.append(f"{box(edge.source)} {arrow}|{_quoted(edge.label)}| {box(edge.target)}")
        else:
            label = f"|{_quoted(title(edge.given))}|" if edge.given else ""
            lines.append(f"{box(edge.first)} -.-{label} {box(edge.second)}")
    return "\n    ".join(lines)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "#quot;") + '"'
