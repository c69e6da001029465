"""Where the boxes of a diagram go: along the arrows, in columns and rows."""

from collections.abc import Iterator

from ...envs.diagrams.diagram import Box, Diagram, Equal

__all__ = ["place_boxes"]


def place_boxes(diagram: Diagram) -> dict[Box, tuple[int, int]]:
    """Column and row of each box, from 0 on.

    What arrows connect is one group, from left to right, and groups are below one another; a lower group runs from
    right to left, and begins where it does, if that brings equals together.

    Example:
        >>> from ebbflow.envs.diagrams import get_example
        >>> place_boxes(get_example("autoregressive"))  # A, B, C, and below them from right to left *, B', A'
        {('A',): (0, 0), ('B',): (1, 0), ('C',): (2, 0), ('*',): (2, 1), ("B'",): (1, 1), ("A'",): (0, 1)}
    """
    boxes = diagram.boxes
    ways = list(_ways(diagram, boxes))
    columns = dict.fromkeys(boxes, 0)
    for _ in boxes:  # longest ways, as far as there is no circle through a box of several
        for first, second in ways:
            columns[second] = min(max(columns[second], columns[first] + 1), len(boxes))
    group = {box: place for place, box in enumerate(boxes)}
    for _ in boxes:
        for first, second in ways:
            group[first] = group[second] = min(group[first], group[second])
    equals = [edge.ends for edge in diagram.edges if isinstance(edge, Equal)]
    places: dict[Box, tuple[int, int]] = {}
    top = 0
    for number in sorted(set(group.values())):
        members = sorted((box for box in boxes if group[box] == number), key=columns.__getitem__)
        rows: dict[Box, int] = {}
        for box in members:
            before = [rows[first] for first, second in ways if second == box and first in rows]
            wanted = round(sum(before) / len(before)) if before else 0
            taken = {row for other, row in rows.items() if columns[other] == columns[box]}
            free = (row for distance in range(len(boxes)) for row in (wanted + distance, wanted - distance))
            rows[box] = next(row for row in free if row >= 0 and row not in taken)
        direction, start = _nearest(members, columns, places, equals)
        places |= {box: (start + direction * columns[box], top + rows[box]) for box in members}
        top += max(rows.values()) + 1
    return places


def _nearest(
    members: list[Box], columns: dict[Box, int], places: dict[Box, tuple[int, int]], equals: list[tuple[Box, Box]]
) -> tuple[int, int]:
    """Direction and first column of a group, for which its boxes are closest to their equals in the groups above."""
    if not places:
        return 1, 0
    last = max(columns[box] for box in members)
    room = max(last, *(column for column, _ in places.values())) - last
    starts = [(1, shift) for shift in range(room + 1)] + [(-1, last + shift) for shift in range(room + 1)]

    def apart(way: tuple[int, int]) -> int:
        direction, start = way
        at = {box: column for box, (column, _) in places.items()}
        at |= {box: start + direction * columns[box] for box in members}
        return sum(abs(at[first] - at[second]) for first, second in equals if first in at and second in at)

    return min(starts, key=apart)


def _ways(diagram: Diagram, boxes: list[Box]) -> Iterator[tuple[Box, Box]]:
    """What comes before what: along arrows, and between the boxes of several variables and their parts."""
    made = {}
    for arrow in reversed(diagram.arrows):
        source, target = arrow.ends
        if source != target:
            yield source, target
        made.update({part: target for part in target if part not in source})
    for box in boxes:
        for part in box if len(box) > 1 else ():
            yield (box, (part,)) if made.get(part) == box else ((part,), box)
