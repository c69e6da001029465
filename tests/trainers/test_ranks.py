"""Training over several processes: two gloo ranks with half a batch each are one process with the whole of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ebbflow.buffers import Anchors
from ebbflow.envs import InputError
from ebbflow.trainers.callbacks import read_metrics
from ebbflow.trainers.checkpoint import load_checkpoint
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.ranks import Ranks
from ebbflow.trainers.train import load_run

SIZE = 2
WIDE = {"residual": "huber", "residual_bound": 0.5}
CONDITIONAL = {"contexts_per_batch": 4, "anchors": {"contexts": 2}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vargrad": ("gmm25", {}),
    "vargrad, squares": ("gmm25", {"residual_bound": None, "single_optimiser": True}),
    "vargrad, huber": ("gmm25", WIDE),
    "vargrad, log cosh": ("gmm25", WIDE | {"residual": "log_cosh", "trunk": "generation"}),
    "trajectory balance, weighted": (
        "gmm25",
        {"objective": "trajectory_balance", "replay": {"priority": "loss", "beta": 1.0}, "target_networks": "none"},
    ),
    "sub-trajectory balance": ("gmm25", {"objective": "sub_trajectory_balance"}),
    "reverse KL": ("gmm25", {"objective": "reverse_kl", "destruction_objective": "tlm", "residual_bound": None}),
    "log derivative": (
        "gmm25",
        {"objective": "reverse_kl_log_derivative", "destruction_objective": "vargrad", "replay": {"beta": 1.0}},
    ),
    "maximum likelihood": ("gmm25", {"objective": "maximum_likelihood", "destruction_objective": "tlm"}),
    "contexts": ("conditional-gmm", CONDITIONAL | WIDE),
    "contexts, log derivative": ("conditional-gmm", CONDITIONAL | {"objective": "reverse_kl_log_derivative"}),
    "data": ("numbers", {"paths_per_sample": 4}),
    "tokens": ("words", {}),
}


@pytest.fixture(scope="module")
def found(settings, tmp_path_factory) -> list[dict[str, Any]]:
    """What the two processes have found."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "cases.json").write_text(json.dumps({"settings": settings(), "cases": CASES}))
    words = [sys.executable, str(Path(__file__).with_name("two_ranks.py"))]
    ranks = [
        subprocess.Popen([*words, str(rank), str(folder)], stderr=subprocess.PIPE, text=True) for rank in range(SIZE)
    ]
    try:
        told = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * SIZE, "\n".join(told)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


# One process and two --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_are_one_process_with_twice_the_batch(found, name):
    for rank in found:
        assert rank[name]["skipped"] == 0 and rank[name]["moved"] > 1e-3
        assert max(rank[name][what] for what in ("loss", "log_ratio", "learned")) < 1e-8, rank[name]


def test_an_update_is_skipped_by_all_ranks_or_by_none(found):
    assert [rank["skip"] for rank in found] == [{"skipped": 1, "moved": 0.0}] * SIZE


def test_no_rank_waits_for_its_device(found):
    assert [rank["waits"] for rank in found] == [[]] * SIZE


def test_two_ranks_resume_bit_for_bit_and_one_rank_takes_over_what_they_remember(found):
    for rank in found:
        assert rank["resume"] == found[0]["resume"] | {"exact": rank["resume"]["exact"]}
    result = found[0]["resume"]
    assert found[1]["resume"]["exact"] == result["exact"] == 0.0
    assert result["stopped"] == 5  # asked for by one rank after the fourth iteration, heard by all after the fifth
    assert result["calls"][0] == result["calls"][1] and result["calls"][2] == result["calls"][3]
    assert result["rows"][0] == result["rows"][1] and result["rows"][2] == result["rows"][3]
    assert result["same rows"] and result["anchors"] == [40, 40]
    assert result["other noise"] and result["parameters apart"] == 0.0 and result["iteration"] == 9


def test_rows_and_gradients_of_all_ranks(found):
    for rank, result in enumerate(found):
        assert result["uneven"] == {
            "whole": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
            "flags": [False, True, True],
            "numbers": [2**40, 2**40 + 1, 2**40 + 2],
            "own gradient": [] if rank == 0 else [2.0],
            "sums": [None, [3.0, 3.0], [1.0]],
        }


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "conditional", "message"),
    [
        ({"batch_size": 16}, False, "batch_size: expected a multiple of the 3 processes it is split over, got 16"),
        ({"batch_size": 18, "contexts_per_batch": 4}, True, "contexts_per_batch: expected a multiple of the 3"),
        ({"batch_size": 18, "device": "cuda:1"}, False, "device: expected cpu or cuda with 3 processes"),
    ],
)
def test_what_cannot_be_shared_is_named(changes, conditional, message):
    with pytest.raises(InputError, match=message):
        Ranks(1, 3).share_of(TrainConfig.from_dict(changes), conditional=conditional)


def test_there_are_anchors_for_all_or_an_error():
    anchors = Anchors(torch.arange(5.0)[:, None], torch.arange(5.0), log_z=2.0, contexts=torch.arange(5.0)[:, None])
    shards = [anchors.shard(number, of=3) for number in range(3)]
    assert [len(shard) for shard in shards] == [2, 2, 1] and anchors.shard(0, of=1) is anchors
    joined = Anchors.joined(shards)
    assert joined.log_z == 2.0 and torch.equal(joined.log_reward.sort().values, anchors.log_reward)
    assert torch.equal(joined.contexts, joined.states) and torch.equal(joined.states[:, 0], joined.log_reward)
    with pytest.raises(InputError, match="anchors: expected at least one state for each of 6 processes, got 5"):
        anchors.shard(0, of=6)


def test_the_share_of_a_rank():
    config = TrainConfig.from_dict({"batch_size": 18, "replay": {"capacity": 100}, "contexts_per_batch": 6})
    share = Ranks(1, 3).share_of(config, conditional=True)
    assert (share.batch_size, share.replay.capacity, share.contexts_per_batch) == (6, 34, 2)
    assert Ranks().share_of(config) is config
    assert len({Ranks(rank, 4).seed(7) for rank in range(4)} | {Ranks(0, 4).seed(7, 10)}) == 5


# torchrun -------------------------------------------------------------------------------------------------------------


def torchrun(folder: Path, *words: str) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={SIZE}"]
    place = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    return subprocess.Popen(
        [*launcher, *place, "-m", "ebbflow.trainers.train", *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_torchrun_trains_into_one_run_folder_and_a_stop_leaves_a_checkpoint_for_one_process(settings, tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(settings(iterations=6)))
    whole = torchrun(tmp_path, "--preset", "tiny.json", "--out", "whole")
    out, err = whole.communicate(timeout=120)
    assert whole.returncode == 0, err
    assert out.count("run folder: whole") == 1 and "ELBO" in out
    assert [row["iteration"] for row in read_metrics(tmp_path / "whole/metrics.csv")] == [2, 4, 6]
    state, config = load_checkpoint(tmp_path / "whole/checkpoint")
    evaluation = json.loads((tmp_path / "whole/evaluation.json").read_text())
    assert len(state["other_ranks"]) == SIZE - 1 and config["batch_size"] == 16
    assert evaluation["energy_calls"] == state["counters"]["energy_calls"]
    assert sorted(path.name for path in (tmp_path / "whole/checkpoint").iterdir()) == ["state.safetensors"]

    (tmp_path / "long.json").write_text(json.dumps(settings(iterations=10**6)))
    long = torchrun(tmp_path, "--preset", "long.json", "--out", "long")
    try:
        until = time.monotonic() + 120
        while not read_metrics(tmp_path / "long/metrics.csv") and long.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        long.send_signal(signal.SIGTERM)
        out, err = long.communicate(timeout=60)
    finally:
        long.kill()
    assert long.returncode != 0 and err.count("interrupted after iteration ") == 1
    trainer = load_run(tmp_path / "long")
    done = trainer.iteration
    assert f"interrupted after iteration {done}, and saved" in err
    trainer.train(until=done + 2)
    assert trainer.iteration == done + 2 and trainer.skipped == 0
