"""A sweep on a Ray cluster of two nodes, of which one is killed: `python -m pytest --ray`. Some minutes.

It needs the packages of `pip install -e '.[ray]'`, starts a cluster of its own and ends it. When all went well it
writes results/ray.md.
"""

import os
import signal
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import engines
import pytest
from engines import ROOT, Sweep, wait_until

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.filterwarnings("default")  # Ray leaves processes and sockets to the end of the process
LAUNCHER = ["hydra/launcher=ray", "hydra.launcher.ray.init.address=auto"]
LENGTHS = 10, 40
OPENING = """A sweep of six runs on a Ray cluster of two nodes with one CPU each, both on one machine. A node is killed
while it trains a member; later another joins. `python -m pytest --ray` does all this again and writes this page, if the
results are those of the same sweep undisturbed, in one process."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    (tmp_path / "nodes").mkdir()
    monkeypatch.chdir(tmp_path / "nodes")  # members must not depend on where nodes were started
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", made.address)  # what address=auto means
    try:
        yield made
    finally:
        made.shutdown()


def test_a_sweep_that_loses_a_node_ends_as_one_that_did_not(cluster: Cluster, tmp_path: Path) -> None:
    expected = engines.undisturbed(tmp_path / "undisturbed", LENGTHS)
    doomed = cluster.add_node(num_cpus=1)
    sweep = Sweep(tmp_path / "on_ray", LENGTHS, *LAUNCHER)
    sweep.note("**the command is given**")
    process = sweep.start()

    def trained_by(node: int) -> list[int]:
        """The longer members, if well begun, whose process is a child of this one."""
        return [n for n in (1, 3, 5) if sweep.epochs(n) >= 5 and sweep.status(n)["pid"] in children(node)]

    raylet = doomed.all_processes["raylet"][0].process.pid
    wait_until(lambda: trained_by(raylet), process)
    (hit,) = trained_by(raylet)
    sweep.note(f"**SIGKILL to all of the second node** ({sweep.names[hit]}, after {sweep.epochs(hit)} epochs)")
    before = sweep.status(hit)["pid"]
    for pid in [raylet, *children(raylet)]:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: sweep.status(hit)["pid"] != before, process)
    sweep.note(f"{sweep.names[hit]} goes on in another process, on the first node")
    cluster.add_node(num_cpus=1)
    sweep.note("**another node joins**")
    code = sweep.end(process)
    sweep.note(f"the command ends with exit code {code}")
    assert code == 0, "\n".join(sweep.lines)
    assert all(" done " in row for row in sweep.table())
    engines.require_equal(sweep, expected)
    log = (sweep.run_directory(hit) / "train.log").read_text()
    resumed = [line.partition("  ")[2] for line in log.splitlines() if "going on after" in line]
    assert resumed, log
    done_to = {hit: f"its node was killed; {resumed[0]}"}
    plugins = [f"{name} {metadata.version(name)}" for name in ("ray", "hydra-ray-launcher", "cloudpickle")]
    told = engines.page(sweep, expected, "A sweep on Ray", OPENING, done_to, plugins)
    (ROOT / "results/ray.md").write_text(told)


def children(pid: int) -> list[int]:
    others = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [other for other in others if parent_of(other) == pid]


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
