"""One engine takes over from the other: nobody notices, and a run that was cut off in between is mended by the next."""

from __future__ import annotations

import contextlib

import lab


def other(engine: lab.Engine) -> lab.Engine:
    """Return the engine that is not this one."""
    return next(each for each in lab.ENGINES if each != engine)


def test_only_the_chosen_engine_runs_and_is_enabled(hosts, engine):
    for balancer in lab.BALANCERS:
        states = {
            each.name: [hosts[balancer].show(each.unit, name) for name in ("ActiveState", "UnitFileState")]
            for each in lab.ENGINES
        }
        assert states[engine.name] == ["active", "enabled"]
        assert states[other(engine).name] in (["inactive", "disabled"], ["inactive", ""])


def test_a_second_run_changes_nothing(playbook, away_engine):
    """As test_resilience has a whole run on the lab's own engine."""
    done = playbook("playbooks/loadbalancer.yml", "--extra-vars", f"loadbalancer_engine={away_engine.name}")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("changed=0 ") == len(lab.BALANCERS), done.stdout


def test_debians_own_instances_stay_away(hosts, engine):
    for balancer in lab.BALANCERS:
        unit = f"{engine.name}.service"
        assert hosts[balancer].show(unit, "LoadState") == "masked"
        assert hosts[balancer].show(unit, "ActiveState") == "inactive"


def test_it_is_not_root_and_binds_its_address_alone(hosts, engine):
    for balancer in lab.BALANCERS:
        host = hosts[balancer]
        pid = host.show(engine.unit, "MainPID")
        assert host.run(f"stat --format=%U /proc/{pid}") == "loadbalancer"
        listening = host.run(f"ss --listening --tcp --numeric --no-header --processes | grep {engine.name}")
        found = {line.split()[3] for line in listening.splitlines()}
        web = {f"{lab.ADDRESSES[balancer]}:{lab.PORTS[name]}" for name in ("http", "https")}
        assert web <= found
        assert not any(address.startswith(("0.0.0.0", "*", "[::]")) for address in found), found  # noqa: S104


def test_what_a_change_that_was_cut_off_left_running_is_retired(hosts, playbook, away_engine):
    """The old engine still runs beside the new one, here enabled, there no longer; the next run ends it unnoticed."""
    old = other(away_engine)
    for balancer, enabled in zip(lab.BALANCERS, ("enable", "disable"), strict=True):
        hosts[balancer].run(f"systemctl start {old.unit} && systemctl {enabled} {old.unit}")
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(lab.Load(balancer, "/users?limit=1", clients=4)) for balancer in lab.BALANCERS]
        loads += [stack.enter_context(lab.writes(balancer)) for balancer in lab.BALANCERS]
        done = playbook("playbooks/loadbalancer.yml", "--extra-vars", f"loadbalancer_engine={away_engine.name}")
    assert done.returncode == 0, done.stdout
    for load in loads:
        assert not load.failed, load
    for balancer in lab.BALANCERS:
        assert hosts[balancer].show(old.unit, "ActiveState") == "inactive"
        assert hosts[balancer].show(old.unit, "UnitFileState") == "disabled"


def test_a_changed_configuration_is_taken_up_under_load(hosts, playbook, away_engine):
    """Another limit and back: two reloads of each balancer, one at a time; test_changes has others by the lab's own."""
    marker = {
        f"{away_engine.input}_hsts": 60,
        "loadbalancer_engine": away_engine.name,
        "trusted_proxies": [lab.GATEWAY],
    }
    said = {"Host": "httpbin.lab", "X-Forwarded-For": "192.0.2.9, 203.0.113.9", "X-Forwarded-Host": "evil.example"}
    with (
        lab.Load(lab.BALANCERS[0], "/users?limit=1") as one,
        lab.Load(lab.BALANCERS[1], "/users?limit=1") as two,
        lab.writes(lab.BALANCERS[0]) as posts,
    ):
        changed = playbook("playbooks/loadbalancer.yml", "--extra-vars", lab.json.dumps(marker))
        lab.wait(lambda: "strict-transport-security" in lab.ask("lb1", "/users?limit=1").headers, 5, "it is sent")
        # And who is trusted is believed who the client is.
        echoed = lab.ask("lb1", "/get?show_env=1", headers=said).json()["headers"]
        back = playbook("playbooks/loadbalancer.yml", "--extra-vars", f"loadbalancer_engine={away_engine.name}")
    assert (changed.returncode, back.returncode) == (0, 0), changed.stdout + back.stdout
    assert not one.failed, one
    assert not two.failed, two
    assert not posts.failed, posts
    assert [echoed[f"X-Forwarded-{name}"] for name in ("For", "Host")] == ["203.0.113.9", "httpbin.lab"]
    assert "strict-transport-security" not in lab.ask("lb1", "/users?limit=1").headers
