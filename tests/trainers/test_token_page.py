"""What docs/tokens.md tells is true: its Python runs."""

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tokens.md").read_text(encoding="utf-8")


def test_the_examples_run():
    names: dict[str, object] = {}
    first, *rest = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert rest
    for code in (first, *rest):
        exec(compile(code.replace("range(500)", "range(100)"), "tokens.md", "exec"), names)
    assert names["x"].shape == (1000, 8)
    assert names["bound"].bits_per_token < 1.5
