"""What the cost of an iteration is compared with does the same work, and every phase of one is measured."""

from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def cost(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cost

    monkeypatch.setattr(cost, "BASE", replace(cost.BASE, steps=4))
    once = cost.interleaved
    monkeypatch.setattr(cost, "interleaved", lambda works, rounds=1: once(works, rounds=1))
    return cost


def test_phases_and_facts_are_measured(cost):
    trainer = cost.make_trainer(16)
    phases = cost.phases(trainer)
    assert len(phases) == 5 and min(phases.values()) > 0.0
    facts = cost.facts(trainer)
    assert [fact[:2] for fact, *_ in facts] == ["1.", "2.", "3.", "4.", "5.", "le"]
    assert all(ratio > 0.0 for _, _, ratio, _ in facts)


def test_another_evaluation_is_noticed(cost, monkeypatch):
    trainer = cost.make_trainer(16)
    plain = cost.gaussian_log_prob
    monkeypatch.setattr(cost, "gaussian_log_prob", lambda *terms: plain(*terms) + 0.1)
    with pytest.raises(AssertionError, match="must give the same numbers"):
        cost.facts(trainer)
