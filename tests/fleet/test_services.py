"""Services under systemd: sandboxed, respawned, watched, and stopped without losing a request."""

from __future__ import annotations

import json
import re
import threading
import time

import lab

# A request that each service answers from one process, with the headers that it takes.
REQUESTS = {
    "users": ("/users?limit=1", {}),
    "orders": ("/orders?limit=1", {}),
    "httpbin": ("/status/200", {"Host": "httpbin.lab"}),
}
EVERY = [(node, service) for node in lab.NODES for service in lab.SERVICES]


def unit(host: lab.Host, service: str) -> str:
    """Return the unit of the live slot of a service on a host."""
    return f"svc-{service}@{host.live_slot(service)}.service"


def processes(host: lab.Host, name: str) -> list[int]:
    """Return the processes of a unit, its main one first."""
    main = int(host.show(name, "MainPID"))
    group = host.show(name, "ControlGroup")
    pids = [int(pid) for pid in host.run(f"cat /sys/fs/cgroup{group}/cgroup.procs").split()]
    return [main, *sorted(pid for pid in pids if pid != main)]


def workers(host: lab.Host, name: str) -> list[int]:
    """Return the worker processes of a unit: children of its main one that run Python's web server."""
    others = processes(host, name)[1:]
    helpers = host.run("grep -l -E 'resource_tracker|forkserver' /proc/[0-9]*/cmdline 2>/dev/null || true").split()
    return [pid for pid in others if f"/proc/{pid}/cmdline" not in helpers]


def test_each_supervisor_has_the_declared_workers(hosts):
    for node, service in EVERY:
        host = hosts[node]
        assert len(workers(host, unit(host, service))) == lab.SERVICES[service]["workers"], (node, service)


def test_each_of_the_three_servers_is_in_use(hosts):
    shown = {
        service: hosts["app1"].run(
            f"tr '\\0' ' ' </proc/{processes(hosts['app1'], unit(hosts['app1'], service))[0]}/cmdline"
        )
        for service in lab.SERVICES
    }
    for service, server in {"httpbin": "gunicorn", "orders": "uvicorn", "users": "granian"}.items():
        assert server in shown[service]


def test_each_unit_has_its_own_user_and_limits(hosts):
    for node, service in EVERY:
        host = hosts[node]
        name = unit(host, service)
        main = processes(host, name)[0]
        assert host.run(f"stat --format=%U /proc/{main}") == f"svc-{service}"
        assert host.show(name, "MemoryMax") == str(512 * 1024 * 1024)
        assert int(host.show(name, "TasksMax")) <= 1024
        assert host.show(name, "UnitFileState") == "enabled"


def test_each_unit_is_sandboxed(hosts):
    host = hosts["app1"]
    for name in ("svc-orders-mailer@1.service", *(unit(host, service) for service in lab.SERVICES)):
        shown = host.run(f"systemd-analyze security --no-pager {name} | tail -n 1")
        assert float(re.search(r"([0-9.]+) [A-Z]+", shown).group(1)) <= 3.0, name


def test_a_service_reads_neither_its_secrets_file_nor_another_service(hosts):
    host = hosts["app1"]
    for service in lab.SERVICES:
        assert host.file(f"/etc/terrace/services/{service}/service.env") == ("600", "root", "root")
    main = processes(host, unit(host, "orders"))[0]
    for path in (
        "/etc/terrace/services/users/service.env",
        "/etc/terrace/services/orders/service.env",
        f"/proc/{main}/environ",
        "/srv/terrace/orders/live/../releases",
        "/run/terrace/orders",
    ):
        assert host.try_run(f"sudo -u svc-users ls {path} && sudo -u svc-users cat {path}").returncode != 0, path


def test_logs_are_in_the_journal_under_the_services_name(hosts):
    marker = f"terrace-{time.time_ns()}"
    node = lab.NODES[0]
    answer = lab.ask(node, "/orders?limit=1", port=lab.SERVICES["orders"]["port"], headers={"X-Request-ID": marker})
    assert answer.status == 200
    # A client that is no load balancer does not choose the id of its request.
    marker = answer.headers["x-request-id"]
    lab.wait(
        lambda: marker in hosts[node].run("journalctl --identifier=orders --lines=200 --output=cat --no-pager"),
        10,
        "the request is in the journal",
    )


def assert_at_most_one_was_cut_off(load: lab.Load, service: str) -> None:
    """Check that nothing failed but one answer of which a killed process had sent the headers alone.

    Servers send headers and body by two system calls; nobody can repeat an answer that has begun.
    """
    assert load.good > 20
    assert len(load.failed) <= 1, f"{service}: {load}"
    assert all(failure.startswith("IncompleteRead") for failure in load.failed), f"{service}: {load}"


def test_a_killed_worker_is_replaced_and_no_request_fails(hosts):
    for service, (path, headers) in REQUESTS.items():
        host = hosts["app1"]
        name = unit(host, service)
        before = workers(host, name)
        with lab.Load("app1", path, port=lab.SERVICES[service]["port"], clients=4, headers=headers) as load:
            host.run(f"kill -9 {before[0]}")
            lab.wait(
                lambda: len(set(workers(host, name)) - set(before)) == 1,
                20,
                f"{service}: a new worker",
            )
            time.sleep(1)
        assert_at_most_one_was_cut_off(load, service)


def test_a_killed_supervisor_is_back_and_peers_stand_in(hosts, everything_ready):
    for service, (path, headers) in REQUESTS.items():
        host = hosts["app2"]
        name = unit(host, service)
        before = processes(host, name)[0]
        with lab.Load("app2", path, port=lab.SERVICES[service]["port"], clients=4, headers=headers) as load:
            host.run(f"systemctl kill --signal=KILL --kill-whom=main {name}")
            lab.wait(lambda: host.show(name, "MainPID") not in ("0", str(before)), 20, "it is back")
            lab.wait(
                lambda: lab.ask("app2", f"/{service}", port=lab.PORTS["node_health"]).status == 200,
                30,
                "it is ready",
            )
        assert_at_most_one_was_cut_off(load, service)


def test_a_node_without_a_slot_is_served_by_its_peers(hosts, everything_ready):
    host = hosts["app3"]
    name = unit(host, "users")
    with lab.Load("lb1", "/users?limit=1", clients=4) as load:
        host.run(f"systemctl stop {name}")
        try:
            lab.wait(lambda: lab.ask("app3", "/users", port=lab.PORTS["node_health"]).status == 503, 10, "app3 says so")
            for _ in range(6):
                answer = lab.ask("app3", "/users?limit=1", port=lab.SERVICES["users"]["port"])
                assert answer.status == 200
                assert answer.headers["x-served-by"] in ("app1", "app2")
        finally:
            host.run(f"systemctl start {name}")
        lab.wait(lambda: lab.ask("app3", "/users", port=lab.PORTS["node_health"]).status == 200, 30, "app3 is back")
    assert not load.failed, load


def test_a_hung_service_is_found_and_restarted(hosts, everything_ready):
    host = hosts["app3"]
    name = unit(host, "httpbin")
    before = processes(host, name)
    # A slot that has only just started is given its start timeout (60 s) before it is asked for its liveness.
    lab.wait(lambda: int(host.run(f"ps -o etimes= -p {before[0]}")) > 60, 70, "its start timeout is over", pause=2)
    host.run(f"kill -STOP {' '.join(map(str, before))}")
    lab.wait(lambda: host.show(name, "MainPID") not in ("0", str(before[0])), 60, "it was restarted", pause=1)
    lab.wait(lambda: lab.ask("app3", "/httpbin", port=lab.PORTS["node_health"]).status == 200, 30, "it is ready")


def test_a_stop_lets_running_requests_finish(hosts, everything_ready):
    host = hosts["app1"]
    name = unit(host, "httpbin")
    answers = []
    running = threading.Thread(
        target=lambda: answers.append(
            lab.ask("app1", "/delay/6", port=lab.SERVICES["httpbin"]["port"], headers={"Host": "httpbin.lab"})
        )
    )
    running.start()
    time.sleep(1.5)
    began = time.monotonic()
    host.run(f"systemctl restart {name}")
    took = time.monotonic() - began
    running.join(30)
    assert [answer.status for answer in answers] == [200]
    assert 2 < took < 30, "the stop waited for the request, and not for its whole time limit"


def test_background_processes_come_back(hosts):
    for node in lab.NODES:
        host, name = hosts[node], "svc-orders-mailer@1.service"
        before = host.show(name, "MainPID")
        host.run(f"kill -9 {before}")
        lab.wait(lambda: host.show(name, "MainPID") not in ("0", before), 20, f"the mailer on {node}")
        assert host.show(name, "User") == "svc-orders"


def test_background_processes_do_their_work(hosts):
    user = lab.ask("lb1", "/users", "POST", {"email": f"{time.time_ns()}@example.com", "name": "Ada"}).json()["id"]
    order = {"user_id": user, "items": [{"sku": "tea", "quantity": 2, "price_cents": 450}]}
    made = lab.ask("lb1", "/orders", "POST", order)
    assert made.status == 201, made.body
    number = made.json()["id"]
    lab.wait(
        lambda: any(
            re.search(
                rf"\b{number}\b", hosts[node].run("journalctl --identifier=orders-mailer --lines=50 --output=cat")
            )
            for node in lab.NODES
        ),
        30,
        "a mailer confirmed the order",
        pause=1,
    )


def test_schedules_run_on_one_node(hosts):
    timers = [
        node for node in lab.NODES if hosts[node].try_run("systemctl is-active svc-orders-report.timer").returncode == 0
    ]
    assert timers == [lab.NODES[0]]
    hosts[timers[0]].run("systemctl start svc-orders-report.service")
    assert hosts[timers[0]].show("svc-orders-report.service", "Result") == "success"


def test_services_trust_the_node_proxy_only_and_it_the_balancers(hosts):
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    direct = lab.ask(
        "app1", "/get?show_env=1", port=lab.SERVICES["httpbin"]["port"], headers={"Host": "httpbin.lab", **forged}
    ).json()
    assert "203.0.113.9" not in str(direct)
    assert "evil.example" not in str(direct)
    assert direct["url"].startswith("http://httpbin.lab/")
    assert direct["origin"] == lab.GATEWAY


def test_a_release_is_not_writable_by_its_service(hosts):
    host = hosts["app1"]
    for service in lab.SERVICES:
        home = f"/srv/terrace/{service}"
        refused = host.try_run(f"sudo -u svc-{service} touch {home}/live/src/x")
        assert refused.returncode != 0


def test_a_command_runs_in_the_live_release_with_its_environment(playbook, monkeypatch):
    monkeypatch.setenv(
        "run_command", "python -c \"import os, orders; print(os.environ['SERVICE_NAME'], '$USERS_URL')\""
    )
    done = playbook("playbooks/run.yml", "--extra-vars", '{"run_service": "orders"}')
    assert done.returncode == 0, done.stdout
    assert f"orders http://127.0.0.1:{lab.SERVICES['users']['port']}" in done.stdout


def test_a_new_node_gets_the_release_that_its_peers_run(hosts, playbook, everything_ready, tmp_path):
    """app3 loses users as if it were new, and so does the controller: the same release and bundle come from a peer."""
    host = hosts["app3"]
    before = host.run("basename $(readlink -f /srv/terrace/users/live)")
    assert before == hosts["app1"].run("basename $(readlink -f /srv/terrace/users/live)")
    host.run(
        "systemctl disable --now svc-users.target 'svc-users@*' 2>/dev/null; systemctl stop 'svc-users@*';"
        " rm -rf /srv/terrace/users /var/cache/terrace/users-* /etc/systemd/system/svc-users.target.wants"
    )
    kept = lab.ROOT / ".terrace/releases/users"
    bundle = json.loads((kept / f"{before}.json").read_text())["bundle_sha256"]
    files = [kept / f"{before}.tar.gz", kept / f"wheels-{bundle[:24]}.tar"]
    for file in files:
        file.rename(tmp_path / file.name)
    done = playbook("playbooks/app.yml", "--tags=python_service", "--limit=app3")
    assert done.returncode == 0, done.stdout[-3000:]
    assert host.run("basename $(readlink -f /srv/terrace/users/live)") == before
    assert [file.read_bytes() for file in files] == [(tmp_path / file.name).read_bytes() for file in files]
    lab.wait(lambda: lab.ask("app3", "/users", port=lab.PORTS["node_health"]).status == 200, 30, "app3 serves users")
