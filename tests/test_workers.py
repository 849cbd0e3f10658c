"""Jobs on processes and on a local Ray cluster of two workers: what one process gives, whoever dies on the way."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import made_jobs
from evidence.protocol import runner
from evidence.protocol.declaration import declare
from evidence.protocol.record import Record
from lm import tiny
from protocol.test_running import find, made_up
from roster import pocket
from roster.arena.moe import compare as arena
from roster.arena.moe.pretrain import Terms
from roster.errors import RosterError
from roster.lm.evaluate import evaluate
from roster.merge import plan_merge, read_config
from roster.merge.many import merge_many
from roster.recipes import RECIPES
from roster.search import METHODS, Range, search
from roster.weights import run
from roster.workers import Workers

TINY = Terms(steps=4, rows=3, length=16, width=16, layers=2, heads=2, hidden=16, validation_rows=2)
MADE = tiny.records(200)
ROUTERS = {slug: RECIPES[slug] for slug in ("lm-knn", "modem")}
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cluster():
    """Address of a cluster of one machine and two workers."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (roster-moe[ray])")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(
        prefix="ray", ignore_cleanup_errors=True
    ) as folder:  # its sockets need short names
        start = f"start --head --block --port={port} --num-cpus=2 --num-gpus=1 --include-dashboard=false"
        start += f" --disable-usage-stats --object-store-memory=100000000 --temp-dir={folder}"
        started = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), *start.split()],
            env={**os.environ, "PYTHONPATH": path, "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            for end in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(started.pid, end)
                    started.wait(5)


@pytest.fixture(scope="module")
def joined(cluster):
    """This process as a driver of the cluster: joining takes seconds, and once is enough."""
    import ray

    # A token that an earlier cluster left in the home folder would be asked of this one.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield from driver(ray, cluster)


def driver(ray, cluster):
    for _ in range(60):
        try:
            ray.init(address=cluster, log_to_driver=False, logging_level="ERROR")
            break
        except (ConnectionError, ValueError, RuntimeError):
            time.sleep(1)
    yield Workers(ray=cluster)
    ray.shutdown()


@pytest.fixture(params=["processes", "ray"])
def workers(request):
    return Workers(2) if request.param == "processes" else request.getfixturevalue("joined")


def test_every_job_has_its_result(workers):
    found = dict(workers.map(made_jobs.squared, [3, 1, 2]))
    assert {place: value for place, (value, _) in found.items()} == {0: 9, 1: 1, 2: 4}
    assert os.getpid() not in {process for _, process in found.values()}
    assert list(workers.map(made_jobs.squared, [])) == []


def test_a_worker_that_is_killed_costs_nothing_but_time(workers, tmp_path):
    jobs = [(number, str(tmp_path / "died")) for number in range(5)]
    assert dict(workers.map(made_jobs.die_once, jobs)) == {place: place * place for place in range(5)}
    assert (tmp_path / "died").exists()


def test_workers_that_keep_dying_are_one_error(workers):
    with pytest.raises(RosterError, match="died 3 times in a row"):
        list(workers.map(made_jobs.die, [0]))


def test_what_a_job_refuses_is_what_the_user_reads(workers):
    with pytest.raises(RosterError, match=r"^1 is nothing that anybody wants$"):
        list(workers.map(made_jobs.refuse, [0, 1]))


def test_the_arena_is_the_same_wherever_its_runs_are_made(workers, tmp_path):
    slugs = ["dense-active", "switch-transformer"]
    here = arena.compare(slugs, TINY, 1, tmp_path / "here")
    there = arena.compare(slugs, TINY, 1, tmp_path / "there", workers=workers)
    assert [row["recipe"] for row in here["recipes"]] == [row["recipe"] for row in there["recipes"]]
    for one, other in zip(here["recipes"], there["recipes"], strict=True):
        assert one["validation"] == other["validation"]
        assert one["over_training"] == other["over_training"]
    assert len(list((tmp_path / "there").glob("*.json"))) == 2, "each run is kept"


def unclocked(report):
    for section in report["sections"]:
        for row in section["rows"]:
            del row["decision_ms"], row["router_cost"]
    return json.dumps(report)


def test_routers_among_models_are_the_same_wherever_they_are_fitted(workers):
    here = evaluate(MADE, ROUTERS, draws=20, added=["dog-person"], probes=[10])
    there = evaluate(MADE, ROUTERS, draws=20, added=["dog-person"], probes=[10], workers=workers)
    assert unclocked(here.to_dict()) == unclocked(there.to_dict())


def test_many_merges_are_each_what_one_alone_is(workers, tmp_path):
    configs = []
    for name, weight in (("even", 0.5), ("other", 0.25)):
        text = f"merge_method: linear\nmodels: [{{model: {pocket.base_path()}, parameters: {{weight: {weight}}}}}]\n"
        configs.append(tmp_path / f"{name}.yaml")
        configs[-1].write_text(text + "dtype: float32\n")
    told = []
    folders = merge_many(configs, tmp_path / "there", max_shard=2**30, workers=workers, report=told.append)
    assert [folder.name for folder in folders] == ["even", "other"]
    assert len(told) == 2
    for config, folder in zip(configs, folders, strict=True):
        run(plan_merge(read_config(config)), tmp_path / folder.name)
        one, other = (load_file(each / "model.safetensors") for each in (tmp_path / folder.name, folder))
        assert all(torch.equal(one[name], other[name]) for name in one)
    again = []
    merge_many(configs, tmp_path / "there", max_shard=2**30, workers=workers, report=again.append)
    assert again == ["even: is there already", "other: is there already"]
    configs[0].write_text(configs[0].read_text().replace("0.5", "0.75"))
    with pytest.raises(RosterError, match="not by this plan"):
        merge_many(configs, tmp_path / "there", max_shard=2**30, workers=workers)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "even.yaml").write_text(configs[0].read_text())
    with pytest.raises(RosterError, match="two of the files are called 'even'"):
        merge_many([configs[0], tmp_path / "more" / "even.yaml"], tmp_path / "there", max_shard=2**30)


def test_evidence_is_the_same_wherever_its_runs_are_made(workers, tmp_path):
    found = []
    for name, where in (("here", Workers()), ("there", workers)):
        folder = tmp_path / name
        declare(made_up().declaration, folder / "declarations", has_results=False)
        runner.run_all(["made-up"], find, folder, where, report=lambda _: None)
        found.append(Record(folder / "records", made_up().declaration).values())
    assert found[0] == found[1]


def test_a_search_runs_on_workers_and_goes_on(workers, tmp_path):
    pytest.importorskip("optuna", reason="Optuna is not installed (roster-moe[search])")
    asked = {"trials": 6, "most": 9, "folder": tmp_path, "workers": workers}
    found = search(METHODS["hyperband"], made_jobs.parabola, {"x": Range(0.0, 1.0)}, **asked)
    assert len(found.trials) == 6
    assert found.best.loss == min(each.loss for each in found.trials if each.whole)
    assert found.best.loss == pytest.approx((found.best.settings["x"] - 0.3) ** 2)
    longer = search(METHODS["hyperband"], made_jobs.parabola, {"x": Range(0.0, 1.0)}, **{**asked, "trials": 8})
    assert longer.trials[:6] == found.trials


def test_a_cluster_places_jobs_by_their_gpus(joined):
    ((_, resources),) = joined.map(made_jobs.with_gpu, [0], gpus=1)
    assert resources["GPU"] == 1


def test_another_version_on_a_machine_is_refused(joined, monkeypatch):
    from roster import workers

    monkeypatch.setattr(workers, "_versions", lambda: {"torch": "1.0"})
    with pytest.raises(RosterError, match=r"Ray cluster has torch \d.* instead of 1\.0"):
        list(joined.map(made_jobs.squared, [1]))


def test_two_places_at_once_are_refused():
    with pytest.raises(RosterError, match="choose one"):
        Workers(2, "auto")
    with pytest.raises(RosterError, match="at least one process"):
        Workers(0)


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RosterError, match=r"roster-moe\[ray\]"):
        list(Workers(ray="auto").map(made_jobs.squared, [1]))


def test_no_cluster_is_one_error(monkeypatch):
    class Missing:
        @staticmethod
        def is_initialized():
            return False

        @staticmethod
        def init(**_):
            raise ConnectionError("Could not find any running Ray instance.\nPlease start one.")

    monkeypatch.setitem(sys.modules, "ray", Missing)
    with pytest.raises(RosterError, match=r"no Ray cluster answers at 'auto'.*Ray instance\. Please start one"):
        list(Workers(ray="auto").map(made_jobs.squared, [1]))
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(RosterError, match=rf"answers at '{address}'.*refused"):
            list(Workers(ray=address).map(made_jobs.squared, [1]))
    with pytest.raises(RosterError, match="'somewhere' is no address"):
        list(Workers(ray="somewhere").map(made_jobs.squared, [1]))
