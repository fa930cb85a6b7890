"""The benchmark's tools: what they make of h2load's log, of a recap and of a unit, and the page that they fill."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml

from landscape import ROOT, Landscape
from landscape import load as module

sys.path.insert(0, str(ROOT / "bench"))
import advice
import balancer
import handshakes
import load
import poolers
import published
import queries
import results
import runs
import scale
import servers
import settings
import stack
import static

PAGE = (ROOT / "docs/benchmarks.md").read_text()


def line(start: float, status: int, took: float) -> str:
    """Return a line of h2load's log: seconds since a begin, a status, milliseconds."""
    return f"{int(1_700_000_000e6 + start * 1e6)}\t{status}\t{int(took * 1000)}"


def test_summary_counts_what_came_in_between():
    """Neither the first fifth, while connections open, nor the last tenth, when some clients are done."""
    steady = [line(number / 50, 200, 10 + number / 100) for number in range(70)]
    seen = load.summary([*[line(-9, 200, 900)] * 20, *steady, *[line(9, 200, 900)] * 10], 100, "here")
    assert seen.rate == pytest.approx(50, rel=0.01)
    assert seen.p50 == pytest.approx(10.345)
    assert seen.p99 == pytest.approx(10.683, abs=0.01)
    assert seen.answers == 100
    assert seen.statuses == {"200": 100}


def test_summary_counts_what_failed():
    """Also requests that h2load says nothing of, since their connection never was."""
    lines = [line(number / 10, status, 5) for number, status in enumerate([200] * 20 + [503, -1, 201])]
    seen = load.summary(lines, 30, "here")
    assert seen.statuses == {"200": 20, "503": 1, "201": 1, "failed": 8}
    assert seen.answers == 22
    with pytest.raises(load.LoadError, match=r"there: not all were answered with 2xx: \{'503': 1, 'failed': 8\}"):
        load.all_good(seen, "there")


def test_summary_of_nothing():
    with pytest.raises(load.LoadError, match=r"here: 0 answers to 2 requests; statuses \{'failed': 2\}"):
        load.summary([line(0, -1, 5), line(1, -1, 5)], 2, "here")


def test_changed():
    recap = "PLAY RECAP ***\nlb1  : ok=9  changed=3  unreachable=0 failed=0\napp1 : ok=9  changed=0  unreachable=0\n"
    assert stack.changed(f"lb1 : changed=7\n{recap}") == {"lb1": 3, "app1": 0}


def test_processor_time_is_that_of_a_unit(tmp_path):
    """All its processes, whose names may hold spaces and brackets; not those of a unit whose name only begins alike."""
    fields = " ".join(["0"] * 9)
    for pid, unit, used in ((1, "svc-a@blue", "10 5"), (2, "svc-a@blue", "20 5"), (3, "svc-a@blue2", "70 70")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(f"0::/svc.slice/{unit}.service\n")
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (b) c) S 1 {fields} {used} 0 0\n")
    script = stack.PROCESSOR.format(units="svc-a@blue gone").replace("/proc/", f"{tmp_path}/")
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[0] == str(os.sysconf("SC_CLK_TCK"))
    assert shown[1:] == ["svc-a@blue 2 40", "gone 0 0"]


def test_a_socket_is_one(tmp_path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert stack.existing(path) == str(path)
    with pytest.raises(SystemExit, match="is not a socket that can be connected to"):
        stack.existing(tmp_path / "none.sock")


@pytest.fixture(scope="module")
def units() -> dict[tuple[str, str], str]:
    return servers.units()


@pytest.mark.parametrize("server", servers.SERVERS)
def test_a_unit_beside_the_slots(units, server):
    """It is the role's own unit, and nothing of the stack takes it for a slot."""
    for service in servers.SERVICES:
        text = units[service, server]
        assert f"python -m {server} " in text
        assert f"/run/terrace/{service}/%i.sock" in text
        assert f"EnvironmentFile=/etc/terrace/services/{service}/service.env" in text
        assert "NoNewPrivileges=yes" in text
        assert "PartOf=" not in text
        assert "X-Terrace" not in text
        assert text.rstrip().endswith("WantedBy=svc-" + service + ".target")


def test_a_unit_that_is_written_otherwise_is_refused():
    with pytest.raises(ValueError, match=re.escape("svc-users@.service does not name its socket")):
        servers.beside("[Service]\nExecStart=/bin/true\n", "users")


def test_packages_are_those_of_the_roles():
    found = runs.packages()
    assert {"haproxy", "pgbouncer", "python3-installer"} <= set(found["app1"])
    assert {"postgresql-17", "patroni", "etcd-server"} <= set(found["db1"])
    assert "redis-server" in found["cache1"]
    assert "redis-server" not in found["db1"]
    assert all(len(name) > 1 for names in found.values() for name in names)


@pytest.mark.parametrize("name", ["lb", "app"])
def test_install_script_parses(name):
    done = subprocess.run(
        ["sh", "-n"], input=runs.INSTALL.format(packages=name), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_generated_inventory_is_accepted_and_rendered(tmp_path):
    place = scale.inventory(tmp_path, 12)
    assert scale.validate(place) > 0
    landscape = Landscape(place, vault_key=None, vault_services=None)
    assert len(landscape.hosts) == 12
    files = list(landscape.files_of("app4"))
    assert "/etc/haproxy/node.cfg" in {file.path for file in files}
    assert {file.host for file in files} == {"app4"}


def test_every_variant_of_the_balancer_lacks_something(lab):
    """Each pattern leaves lines out; what only an option adds to the configuration would be measured for nothing."""
    (text,) = (file.text for file in lab.files_of("lb1") if file.path == balancer.CONFIGURATION)
    assert balancer.variant(text, []) == text
    for patterns in balancer.WITHOUT.values():
        for pattern in patterns:
            assert len(balancer.variant(text, [pattern])) < len(text), pattern


def test_share_compares_within_a_round():
    assert results.share([8, 9, 60], [10, 10, 50]) == 0.9


def test_what_a_node_is_told_of_others_does_not_grow_with_them(tmp_path):
    """Twice the nodes: the node proxy's configuration may grow by the list of trusted addresses alone."""
    lines = []
    for count in (30, 60):
        (tmp_path / str(count)).mkdir()
        landscape = Landscape(scale.inventory(tmp_path / str(count), count), vault_key=None, vault_services=None)
        (text,) = (file.text for file in landscape.files_of("app1") if file.path == "/etc/haproxy/node.cfg")
        lines.append(len(text.splitlines()))
    assert lines[0] == lines[1]


def test_each_host_is_asked_for_its_address_once(tmp_path):
    """Ansible puts all variables of a host together for it, and every expression of a group asks for all its hosts."""
    landscape = Landscape(scale.inventory(tmp_path, 12), vault_key=None, vault_services=None)
    asked = []
    of = landscape.manager.get_vars

    def get_vars(*words, **named):
        if named.get("host") is not None and not named.get("task") and not named.get("play"):
            asked.append(named["host"].name)
        return of(*words, **named)

    landscape.manager.get_vars = get_vars
    list(landscape.files_of("app1"))
    # The first database is also asked how many connections it takes, by each expression that shares memory out.
    assert {asked.count(host) for host in landscape.hosts if host != "database1"} == {1}
    assert asked.count("database1") <= 4


@pytest.mark.parametrize(
    "part",
    [
        *("data", "ways", "cache", "compression", "connections", "servers", "runs", "scale"),
        *("settings", "poolers", "queries", "indexes", "static", "handshakes", "levels", "edge"),
    ],
)
def test_the_page_has_a_place_for_every_part(part):
    assert PAGE.count(f"<!-- bench: {part} -->") == 1


def test_the_page_says_what_was_measured():
    """A table stands where, and only where, a result is kept; so no figure is in it that was not measured."""
    for part, text in re.findall(r"(?s)<!-- bench: (\w+) -->\n(.*?)<!-- end -->", PAGE):
        kept = ROOT / f"bench/results/{part}.json"
        assert kept.exists() == bool(text.strip()), part
        if kept.exists():
            found = json.loads(kept.read_text())
            assert found["date"] in text
            assert found["command"] in text


def test_results_are_kept_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    assert results.load("ways") is None
    path = results.save("ways", "bench/run ways", {"rows": [1.5]})
    kept = results.load("ways")
    assert kept["measured"] == {"rows": [1.5]}
    assert kept["machine"]["cores"] >= 1
    assert kept["machine"]["memory_mb"] > 100
    assert [name.name for name in path.parent.iterdir()] == ["ways.json"]


@pytest.mark.parametrize("given", ["0", "-1", "many", "1000"])
def test_rounds_are_bounded(monkeypatch, given):
    monkeypatch.setenv("ROUNDS", given)
    with pytest.raises(SystemExit, match="ROUNDS is"):
        results.rounds()


@pytest.mark.parametrize("words", [[], ["nothing"], ["ways", "wrong"]])
def test_an_unknown_part_shows_what_there_is(words):
    done = subprocess.run([sys.executable, ROOT / "bench/run", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "bench/run PART" in done.stderr


@pytest.mark.skipif(not shutil.which("h2load"), reason="h2load comes with the lab's packages")
def test_h2load_is_understood(tmp_path):
    """A load on a unix socket: the paths in turn, the body, the header."""
    path = tmp_path / "s.sock"
    server = Path(__file__).with_name("data") / "answers.py"
    with subprocess.Popen([sys.executable, server, str(path)], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout.readline() == "ready\n"
            seen = load.run(
                load.Place("http://localhost", str(path)), [["/a", "/b"], ["/c"]], 2, 0.5, {"X-A": "b"}, "{}"
            )
        finally:
            running.terminate()
        asked = set(running.stdout.read().split())
    assert asked == {"POST:/a:b:2", "POST:/b:b:2", "POST:/c:b:2"}
    assert set(seen.statuses) == {"201"}
    assert seen.rate > 10


def test_all_that_the_advisor_is_judged_by_is_sent():
    """The host that it runs on has nothing of the project."""
    assert [name for name in advice.FILES if not (ROOT / name).is_file()] == []
    texts = [(ROOT / name).read_text() for name in advice.FILES]
    wanted = {
        name for text in texts for name in re.findall(r"ansible\.module_utils(?:\.| import )(postgresql_\w+)", text)
    }
    wanted |= set(
        re.findall(r"postgresql_\w+", re.search(r"(?m)^from ansible\.module_utils import (.*?)  #", texts[0])[1])
    )
    assert {f"plugins/module_utils/{name}.py" for name in wanted} <= set(advice.FILES)
    tables = re.findall(r'tables\("(\w+)"', texts[0])
    assert sorted(tables) == ["pgbench", "tpcc", "tpch"]
    assert {f"bench/workloads/{name}.sql" for name in tables} <= set(advice.FILES)


def test_what_the_report_says_is_pasted_as_it_stands():
    """Lines of another database, or for a service's file, are no user's to paste there."""
    lines = "databases:\n  bench_tpcc:\n    indexes:\n      orders:\n        - columns: [o_c_id]\n"
    pasted = advice.declared({"bench_tpcc": {}, "bench_tpch": {}}, {"bench_tpcc": [{"lines": lines}] * 2})
    assert pasted == {"bench_tpcc": {"indexes": {"orders": [{"columns": ["o_c_id"]}] * 2}}, "bench_tpch": {}}
    for wrong in (lines.replace("tpcc", "tpch"), lines.replace("databases", "database")):
        with pytest.raises(AssertionError):
            advice.declared({"bench_tpcc": {}}, {"bench_tpcc": [{"lines": wrong}]})


def test_a_cluster_s_settings_are_those_of_one_server():
    """What Terrace sets is measured, but for where a server is, whom it lets in and whom it sends to."""
    derived = yaml.safe_load((ROOT / "roles/patroni/vars/main.yml").read_text())["__patroni_derived"]
    told = dict.fromkeys(derived, "1") | {"primary_conninfo": "x", "hba_file": "x", "synchronous_standby_names": "*"}
    left = set(told) - set(settings.kept(told))
    assert left == {
        *("ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file", "unix_socket_directories", "archive_command"),
        *("primary_conninfo", "hba_file", "synchronous_standby_names"),
    }


def test_an_instance_s_own_settings_come_last():
    lines = settings.configuration({"log_line_prefix": "it's %p ", "fsync": "off"}).splitlines()
    assert lines[0] == "log_line_prefix = 'it''s %p '"
    assert "fsync = 'on'" in lines
    assert "fsync = 'off'" not in lines
    assert "listen_addresses = ''" in lines


def test_what_others_publish_follows_the_host():
    small, large = published.autobase(2, 4096), published.autobase(32, 65536)
    assert (small["shared_buffers"], small["effective_cache_size"]) == ("1024MB", "3072MB")
    assert (small["max_worker_processes"], large["max_worker_processes"]) == (16, 32)
    assert large["max_parallel_workers"] == 16
    small, large = published.pigsty(2, 4096, 8 * 1024**3), published.pigsty(32, 524288, 4000 * 1024**3)
    assert (small["shared_buffers"], small["work_mem"], small["max_wal_size"]) == ("1024MB", "64MB", "4GB")
    assert (large["shared_buffers"], large["work_mem"], large["max_wal_size"]) == ("131072MB", "262MB", "400GB")
    assert (small["max_worker_processes"], large["max_worker_processes"]) == (24, 48)
    assert (small["max_parallel_workers_per_gather"], large["max_parallel_workers_per_gather"]) == (2, 6)


PGBENCH = """transaction type: <builtin: select only>
number of failed transactions: {failed} (0.000%)
latency average = 0.123 ms
initial connection time = 12.345 ms
tps = 8123.456 (without initial connection time)
"""


def test_pgbench_is_understood():
    assert settings.rate(PGBENCH.format(failed=0)) == 8123.456
    for wrong in (PGBENCH.format(failed=1), "pgbench: error: connection to server failed\n"):
        with pytest.raises(ValueError, match="pgbench did not end well"):
            settings.rate(wrong)


def test_instances_take_turns_and_are_removed():
    """Each candidate is as often first; whatever happens to it, its data go."""
    asked = []

    def run(command: str, timeout: float) -> str:
        asked.append(command)
        return PGBENCH.format(failed=0)

    tried = {name: {"settings": {"work_mem": name}, "checksums": name == "b"} for name in "abc"}
    rows = settings.compared(run, tried, 3, 7, 1)
    assert [row["way"] for row in rows[:3]] == ["a", "b", "c"]
    assert {len(row["rounds"]) for row in rows} == {3}
    made = [re.search("work_mem = '(.)'", command.replace("'\"'\"'", "'")) for command in asked]
    assert "".join(found[1] for found in made if found) == "abcbcacab"
    assert sum("--data-checksums" in command for command in asked) == 3
    assert "rm -rf" in asked[-1]

    def fails(command: str, timeout: float) -> str:
        asked.append(command)
        assert "--initialize" not in command, "no room"
        return ""

    with pytest.raises(AssertionError, match="no room"):
        settings.turn(fails, {}, True, 1, 1)
    assert "-m immediate" in asked[-1]
    assert "rm -rf" in asked[-1]


def test_clients_are_spread_and_put_together():
    assert poolers.shares(1000, 3) == [334, 333, 333]
    assert poolers.shares(2, 3) == [1, 1, 0]
    one = {"connected": 9, "refused": {"too many": 2}, "failed": {}, "took_ms": [1.0] * 50}
    other = {"connected": 8, "refused": {"too many": 1, "away": 1}, "failed": {"gone": 1}, "took_ms": [3.0] * 50}
    found = poolers.together([one, other], 10)
    assert found == {
        "connected": 17, "refused": {"too many": 3, "away": 1}, "failed": {"gone": 1},
        "rate": 10, "p50": 2.0, "p99": 3.0,
    }  # fmt: skip
    none = poolers.together([one | {"took_ms": []}], 10)
    assert (none["rate"], none["p50"], none["p99"]) == (0, None, None)


def test_clients_stay_within_bounds():
    """What they are told fits what the program takes; it comes by standard input, so no file is left on a node."""
    text = (ROOT / "bench/clients.py").read_text()
    most, longest = (int(re.search(rf"(?m)^{name} = (\d+)$", text)[1]) for name in ("MOST", "LONGEST"))
    assert most >= poolers.CLIENTS
    assert longest >= max(poolers.CONNECT_SECONDS, poolers.ASK_SECONDS)
    command = poolers.command(334, 1700000000.0, ("10.77.0.41", "5432", poolers.CA_FILE))
    assert command.endswith(f" python - 334 1700000000.0 {poolers.ASK_SECONDS} 10.77.0.41 5432 {poolers.CA_FILE}")


def of(name: str) -> dict:
    """Return what a service's file says."""
    return yaml.safe_load((ROOT / f"services/{name}.yml").read_text())


def test_every_declared_query_is_tried_without_its_index():
    services = {name: of(name) for name in queries.SERVICES}
    found = list(queries.declared(services))
    assert [each.name for each in found if each.service == "orders"] == list(services["orders"]["database"]["queries"])
    assert [each.name for each in found if each.service == "users"] == list(services["users"]["database"]["queries"])
    assert all(each.without for each in found)
    report = queries.report(services["orders"], "2026-11-01 00:00:00+00")
    assert report.without == ("orders_created_at_total_cents_idx",)


def test_nothing_is_dropped_for_good():
    query = queries.Query("orders", "one", "SELECT id FROM orders WHERE user_id = $1 AND $2", (42, True), ("a_idx",))
    lines = queries.script(query, ["DROP INDEX a_idx"]).splitlines()
    dropped = lines.index("DROP INDEX a_idx;")
    assert lines.index("BEGIN;") < dropped < lines.index("ROLLBACK;") == len(lines) - 1
    assert lines.count("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE tried('42', 'true');") == queries.RUNS + 1
    assert not any("COMMIT" in line for line in lines)
    assert [queries.literal(value) for value in (None, False, "it's", 1.5)] == ["NULL", "'false'", "'it''s'", "'1.5'"]


def plans(index: str, count: int) -> str:
    """Return what psql prints of so many plans."""
    scan = {"Node Type": "Index Scan", "Relation Name": "orders", "Index Name": index}
    top = {"Node Type": "Limit", "Shared Hit Blocks": 3, "Shared Read Blocks": 1, "Plans": [scan]}
    return "\n".join(json.dumps([{"Plan": top, "Execution Time": 1.5 + number}], indent=1) for number in range(count))


def test_plans_are_understood():
    found = queries.seen(plans("a_idx", queries.RUNS + 1))
    assert len(found) == queries.RUNS
    assert found[0] == {"ms": 2.5, "buffers": 4, "nodes": ["Index Scan on a_idx"]}
    with pytest.raises(ValueError, match="1 plans, not"):
        queries.seen(plans("a_idx", 1))


def test_an_index_that_is_not_gone_is_told():
    query = queries.Query("orders", "one", "SELECT 1", (), ("a_idx",))

    def run(used: str):
        return lambda sql, _: "DROP INDEX a_idx" if "coalesce" in sql else plans(used, queries.RUNS + 1)

    assert len(queries.tried(run("b_idx"), query)["without"]) == queries.RUNS
    with pytest.raises(AssertionError, match="orders one still used a_idx"):
        queries.tried(run("a_idx"), query)


def test_the_plain_nginx_serves_the_directory_of_ours():
    text = static.configuration("192.0.2.1", "/orders/static/")
    assert text.count("{") == text.count("}")
    assert re.findall(r"listen (\S+?)[; ]", text) == ["192.0.2.1:8097", "192.0.2.1:8098"]
    assert "location /orders/static/ { alias /srv/terrace/orders/static/immutable/; }" in text
    assert static.FOLDER in text
    assert [static.name(size) for size in static.SIZES] == ["bench-1-kB.bin", "bench-100-kB.bin", "bench-1-MB.bin"]


def test_handshakes_are_understood(tmp_path):
    """Full ones and resumed ones with a real server, at the same time; one taken for the other is refused."""
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=a",
    ]
    subprocess.run([*made, "-keyout", tmp_path / "key", "-out", tmp_path / "crt"], check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    server = ["openssl", "s_server", "-accept", place, "-cert", tmp_path / "crt", "-key", tmp_path / "key", "-www"]
    with subprocess.Popen([*server, "-quiet"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        try:
            stack.lab.wait(lambda: not connects(place), 10, "the server listens", pause=0.05)
            agreed = handshakes.agreed(handshakes.openssl("s_client", "-connect", place, "-tls1_3"))
            words = ["openssl", "s_time", "-connect", place, "-tls1_3", "-www", "/", "-time", "1"]
            clients = {
                kind: subprocess.Popen([*words, word], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                for kind, word in handshakes.KINDS.items()
            }
            said = {kind: client.communicate(timeout=30)[0] for kind, client in clients.items()}
        finally:
            running.terminate()
    assert re.fullmatch(r"TLSv1\.3 TLS_\w+, \w+; the certificate's key: 256 bit, signing by \w+", agreed)
    for kind, other in (("full", "resumed"), ("resumed", "full")):
        assert handshakes.counted(said[kind], kind) > 5
        with pytest.raises(load.LoadError, match=f"not all handshakes were {other}"):
            handshakes.counted(said[kind], other)


def connects(place: str) -> int:
    host, port = place.split(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port)))


@pytest.mark.parametrize(
    "said",
    [
        "",
        "***\n\n0 connections in 2 real seconds, 0 bytes read per connection\n",
        "*r*\n\n3 connections in 2 real seconds, 9 bytes read per connection\n",
    ],
)
def test_handshakes_that_were_not_made_are_told(said):
    for kind in handshakes.KINDS:
        with pytest.raises(load.LoadError, match="nothing was answered"):
            handshakes.counted(said, kind)


def test_what_is_asked_for_after_a_handshake_is_of_the_balancer_itself():
    topology = yaml.safe_load((ROOT / "playbooks/group_vars/all/topology.yml").read_text())
    assert topology["topology_balancer_health"] == handshakes.PATH
    assert [(way.name, way.hops[0][1:]) for way in handshakes.places({"haproxy": "lb1", "nginx": "lb2"})] == [
        ("haproxy", ("lb1", "haproxy@lb")),
        ("nginx", ("lb2", "nginx@lb")),
        ("edge", ("edge1", "nginx@edge")),
    ]


def test_handshakes_are_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", MagicMock())
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", MagicMock())
    report = module("bench/report", "bench_report")
    rows = [
        {
            "way": way,
            "kind": kind,
            "rounds": [{"rate": rate * more, "cpu": {"balancer": spent * more}} for more in (1, 2, 3)],
        }
        for way, rate, spent in (("haproxy", 1000, 400), ("edge", 1100, 300))
        for kind, rate, spent in (("full", rate, spent), ("resumed", 2 * rate, spent / 4))
    ]
    measured = {
        "clients": 4, "seconds": 4, "openssl": "OpenSSL 3.0.1", "agreed": {"haproxy": "A", "edge": "A"}, "rows": rows,
    }  # fmt: skip
    assert report.handshakes(measured).splitlines() == [
        "| place, handshake | connections/s | balancer, µs a connection | of full |",
        "| --- | ---: | ---: | ---: |",
        "| HAProxy, full | 2,000 (1,000..3,000) | 800 (400..1,200) | 100% |",
        "| HAProxy, resumed | 4,000 (2,000..6,000) | 200 (100..300) | 25% |",
        "| the edge, full | 2,200 (1,100..3,300) | 600 (300..900) | 100% |",
        "| the edge, resumed | 4,400 (2,200..6,600) | 150 (75.0..225) | 25% |",
        "",
        "4 clients of OpenSSL 3.0.1, 4 s a round, median of 3 rounds (smallest..largest). Agreed on: A.",
    ]
    measured["agreed"]["edge"] = "B"
    assert report.handshakes(measured).endswith("Agreed on: HAProxy: A. edge: B.")
