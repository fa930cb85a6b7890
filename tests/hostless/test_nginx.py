"""nginx as the engine: what its configuration makes of routes, ways and limits, and how one engine takes over."""

from __future__ import annotations

import functools
import re
import types
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from landscape import ROOT, File, Landscape, load
from test_systemd_unit import Systemd

retired = load("plugins/modules/systemd_retired.py", "systemd_retired")
services = load("plugins/filter/services.py", "filter_services_for_nginx")


@pytest.fixture(scope="module")
def lab_nginx(tmp_path_factory) -> Landscape:
    """The lab, with nginx as the engine."""
    return Landscape(ROOT / "inventory/lab", loadbalancer_engine="nginx", lab_state=str(tmp_path_factory.mktemp("lab")))


@functools.cache
def configuration(landscape: Landscape) -> File:
    return next(file for file in landscape.files_of("lb1") if file.path == "/etc/nginx/lb.conf")


def block(file: File, start: str) -> list[str]:
    """Return the lines of a block, from what its first line begins with to its closing brace."""
    found = re.search(rf"(?m)^( *){re.escape(start)}.*{{\n((?:.*\n)*?)\1}}$", file.text)
    assert found, start
    return [line.strip() for line in found[2].splitlines() if line.strip()]


def first(rules: list[str], value: str) -> str:
    """Return what a map makes of a value: its first expression that fits, as nginx does it."""
    default = ""
    for rule in rules:
        if rule.startswith("#"):
            continue
        key, result = re.fullmatch(r'("[^"]*"|\S+) ("[^"]*"|\S+);', rule).groups()
        key, result = key.strip('"'), result.strip('"')
        if key == "default":
            default = result
        elif key.startswith("~") and (match := re.search(key[1:], value)):
            return re.sub(r"\$(\d)", lambda group: match[int(group[1])] or "", result)
        elif key == value:
            return result
    return default


@pytest.mark.parametrize(
    ("asked", "route"),
    [
        ("api.example.com/shop/", "shop /shop"),
        ("api.example.com/shop/x/", "shop /shop"),
        ("api.example.com/shopping/", ""),
        ("shop.example.com/anything/", "shop"),
        ("shopxexample.com/anything/", ""),
        ("other.example/shop/1/", "shop"),
        ("other.example/", ""),
    ],
)
def test_the_longest_route_wins(nginx, asked, route):
    rules = [rule for rule in block(configuration(nginx), "map $host$path/ $route") if "[^/]*/ " not in rule]
    rules = [rule for rule in rules if not rule.startswith('"~^[^/]*/"')]
    assert first(rules, asked) == route


def test_routes_need_no_more_than_they_say():
    given = [{"name": "a", "routes": [{"path": "/x/"}, {"host": "H.example"}]}]
    assert services.services_routes(given) == [
        {"service": "a", "host": "h.example", "path": "", "strip": False},
        {"service": "a", "host": "", "path": "/x", "strip": False},
    ]


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("/shop /shop/x?q=/shop", "/x?q=/shop"),
        ("/shop /shop", "/"),
        ("/shop /shop?q", "/?q"),
        ("/shop /shop/shop/x", "/shop/x"),
        (" /a%20b//c?x=%2F", "/a%20b//c?x=%2F"),
    ],
)
def test_a_prefix_is_taken_off_once(nginx, asked, target):
    assert first(block(configuration(nginx), 'map "$prefix $request_uri" $target'), asked) == target


@pytest.mark.parametrize(
    ("asked", "way"),
    [
        # method, transfer-encoding:content-length, what Connection becomes, whether there is an Idempotency-Key
        ("GET :  ", "repeat"),
        ("HEAD :  ", "repeat"),
        ("OPTIONS :0  ", "repeat"),
        ("GET : upgrade ", "upgrade"),
        ("GET chunked:  ", "once"),
        ("GET :16000  ", "once"),
        ("POST :15999  keyed", "repeat"),
        ("POST :16000  keyed", "post"),
        ("POST chunked:  keyed", "post"),
        ("POST :5  ", "post"),
        ("PATCH :5  ", "post"),
        ("PUT :5  ", "once"),
        ("DELETE :  ", "once"),
        ("DELETE :  keyed", "repeat"),
        ("PROPFIND :  ", "once"),
    ],
)
def test_what_was_sent_is_repeated_only_if_safe_or_with_a_key(nginx, asked, way):
    file = configuration(nginx)
    rules = block(file, 'map "$request_method $http_transfer_encoding:')
    assert first(rules, asked) == way
    said = block(file, f"location = shop:{way}")
    repeats = [line for line in said if line.startswith("proxy_next_upstream")]
    assert repeats == {
        "repeat": ["proxy_next_upstream error timeout non_idempotent;"],
        "post": ["proxy_next_upstream error timeout;"],
    }.get(way, [])
    # Kept in memory only where it may be repeated.
    assert ("proxy_request_buffering on;" in said) == (way == "repeat")


@pytest.mark.parametrize(
    ("times", "unreached"),
    [("-", True), ("-, -", True), ("- : -", True), ("0.001", False), ("0.001, -", False), ("-, 0.000", False)],
)
def test_a_request_that_reached_no_node_is_told_so(nginx, times, unreached):
    assert bool(first(block(configuration(nginx), "map $upstream_connect_time $unreached"), times)) == unreached


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [("0.000", "0"), ("0.031", "31"), ("0.250", "250"), ("10.123", "10123"), ("-", "-1"),
                                  ("0.900, 0.004", "4")],
)  # fmt: skip
def test_the_log_counts_in_milliseconds(nginx, seconds, milliseconds):
    rules = block(configuration(nginx), "map $upstream_connect_time $log_connect")
    assert first(rules, seconds).lstrip("0") in (milliseconds, milliseconds.lstrip("0"))


def test_plain_http_is_redirected_or_answered(lab_nginx, nginx):
    redirect = "return 308 https://$host$request_uri;"
    assert redirect in configuration(lab_nginx).text
    assert redirect not in configuration(nginx).text
    assert configuration(nginx).text.count("location = shop:once {") == 2
    # The lab's edge may say that it was asked by HTTPS, so the plain port knows the services, and redirects all others.
    assert configuration(lab_nginx).text.count("location = orders:once {") == 2
    assert "if ($asked_scheme = http) {" in configuration(lab_nginx).text
    assert "if ($asked_scheme = http) {" not in configuration(nginx).text


def test_the_query_is_not_logged(nginx):
    [log] = re.findall(r"(?s)log_format json .*?;\n", configuration(nginx).text)
    assert not re.search(r"\$(request|request_uri|args|query_string|http_referer)\b", log)
    assert "\nerror_log stderr crit;\n" in configuration(nginx).text


def test_both_engines_hold_their_ports_as_one_user(ha, nginx):
    def user(landscape: Landscape, path: str) -> str:
        [text] = {file.text for file in landscape.files if file.path == path}
        return re.search(r"(?m)^User=(.+)$", text)[1]

    assert user(ha, "/etc/systemd/system/haproxy@lb.service") == "loadbalancer"
    assert user(nginx, "/etc/systemd/system/nginx@.service") == "loadbalancer"
    assert user(ha, "/etc/systemd/system/haproxy@node.service") == "haproxy"
    listens = re.findall(r"(?m)^ +listen [^u].*$", configuration(nginx).text)
    assert len(listens) == 4
    assert all(" reuseport " in line for line in listens)


def kept(item) -> dict:
    """Return what an item of systemd_current keeps."""
    return item.evaluate(item.task.args)


def test_only_the_chosen_engine_is_written_and_the_other_retired(ha, nginx):
    def engines(landscape: Landscape) -> tuple[set[str], set[str]]:
        steps = [step for step in landscape.steps("lb1") if step.role in ("haproxy", "nginx")]
        runs = [
            step
            for step in steps
            if step.task.action == "systemd_current" and any("@lb" in str(kept(item)) for item in step.items())
        ]
        return {step.role for step in runs}, {step.role for step in steps if step.task.action == "systemd_retired"}

    assert engines(ha) == ({"haproxy"}, {"nginx"})
    assert engines(nginx) == ({"nginx"}, {"haproxy"})


@pytest.mark.parametrize(("role", "landscape"), [("haproxy", "ha"), ("nginx", "nginx")])
def test_a_balancer_takes_few_tasks(request, role, landscape):
    """Those that are asked of a host whose packages are there: directories, user, files, daemon."""
    local = {"assert", "validate_argument_spec", "include_role", "meta", "apt"}
    steps = [
        step
        for step in request.getfixturevalue(landscape).steps("lb1")
        if step.role == role and step.variables.get("nginx_instance") != "cache"
    ]
    names = [s.task.name for s in steps if s.task.action.removeprefix("ansible.builtin.") not in local and [*s.items()]]
    assert len(names) <= 4, names


def test_the_first_post_over_http2_is_not_refused(nginx):
    """nginx does so, until its settings are acknowledged, where it reads less ahead than HTTP/2's window."""
    assert "http2 on;" in configuration(nginx).text
    assert "http2_body_preread_size" not in configuration(nginx).text


# Draining


@pytest.fixture(scope="module")
def drain(nginx) -> types.ModuleType:
    """The helper that reloads and ends nginx, as it is on the host."""
    text = next(file.text for file in nginx.files if file.path == "/usr/local/sbin/nginx-drain")
    module = types.ModuleType("nginx_drain")
    exec(text, module.__dict__)  # noqa: S102
    return module


def test_a_draining_balancer_answers_the_same_and_closes(lab_nginx, nginx):
    """Also where it redirects, or knows no service: the flag is asked before anything else."""
    flag = ["if (-f /run/nginx-lb/drain) {", "rewrite ^ :drain last;", "}"]
    for file in (configuration(lab_nginx), configuration(nginx)):
        entrances = re.findall(r"(?m)^        location (/|= :drain) {\n((?:.*\n)*?)        }$", file.text)
        assert [where for where, _ in entrances] == ["/", "= :drain"] * 2
        for (_, first_one), (_, twin) in (entrances[:2], entrances[2:]):
            said, again = ([line.strip() for line in text.splitlines()] for text in (first_one, twin))
            assert (said[:3], again[0]) == (flag, "keepalive_timeout 0;")
            assert said[3:] == again[1:]
            assert len(again) > 3


def test_a_reload_and_a_stop_drain(nginx, drain):
    [unit_file] = {file.text for file in nginx.files if file.path == "/etc/systemd/system/nginx@.service"}
    acts = re.findall(r"(?m)^(Exec(?:Reload|Stop))=(.+)$", unit_file)
    helper = "/usr/local/sbin/nginx-drain %i"
    assert [name for name, _ in acts] == ["ExecReload", "ExecReload", "ExecStop"]
    assert [command for _, command in acts[1:]] == [f"{helper} reload", f"{helper} stop"]
    # All waits fit into what systemd grants.
    [granted] = re.findall(r"(?m)^TimeoutSec=(\d+)$", unit_file)
    assert int(granted) > drain.IDLE + 2 * drain.LAST + 10 + drain.FIRST


def test_a_flag_that_a_killed_drain_left_is_removed_by_the_next_run(nginx):
    """The unit is reloaded where the flag is, and a reload removes it."""
    [step, _] = [s for s in nginx.steps("lb1") if s.role == "nginx" and s.task.action == "systemd_current"]
    assert "/run/nginx-lb/drain" in [
        path for unit in step.items() for path in unit.variables["item"].get("reload_on", [])
    ]


SHOWN = """\
0 0 10.9.0.1:443 10.9.0.8:4001 users:(("nginx",pid=30,fd=5)) cubic rto:204 lastsnd:90 lastrcv:95 lastack:90
0 0 10.9.0.1:443 10.9.0.8:4002 users:(("nginx",pid=30,fd=6)) cubic rto:204 lastsnd:900 lastrcv:70 lastack:70
0 0 10.9.0.1:443 10.9.0.8:4003 users:(("nginx",pid=31,fd=7)) cubic rto:204 lastsnd:900 lastack:70
0 0 10.9.0.1:443 10.9.0.8:4004 users:(("nginx",pid=31,fd=8)) cubic rto:204 lastrcv:7 lastack:0
0 0 10.9.0.1:443 10.9.0.8:4005 users:(("haproxy",pid=40,fd=8)) cubic rto:204 lastsnd:900 lastrcv:7
0 0 10.9.0.1:443 10.9.0.8:4006 cubic rto:204 lastsnd:900 lastrcv:7
"""


def test_who_waits_for_an_answer_is_told_from_who_idles(drain):
    """And the clients of the other engine, on the same ports, are none of its own."""
    assert drain.connections(SHOWN, {30, 31}) == {
        "10.9.0.8:4001": False,
        "10.9.0.8:4002": True,
        "10.9.0.8:4003": True,
        "10.9.0.8:4004": False,
    }


class Clock:
    """A time that passes only by being slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("clients", "seconds"),
    [
        # of a client: when it leaves; until when it waits for an answer
        ([], 0),
        ([(1, 0)], 1),
        ([(99, 0)], 5),
        ([(1, 0), (99, 12)], 12),
        ([(99, 99)], 45),
    ],
    ids=["nobody", "closed", "idle", "slow", "endless"],
)
def test_a_drain_lasts_as_long_as_somebody_needs_it(drain, monkeypatch, tmp_path, clients, seconds):
    clock = Clock()

    def now(_: int) -> dict[str, bool]:
        old = {str(number): clock.now < busy for number, (leaves, busy) in enumerate(clients) if clock.now < leaves}
        # Those that came later are told to close by their first answer, and are not waited for.
        return old | ({f"new {clock.now}": True} if clock.now else {})

    monkeypatch.setattr(drain, "time", clock)
    monkeypatch.setattr(drain, "clients", now)
    drain.drain(1, tmp_path / "drain")
    assert (tmp_path / "drain").exists()
    assert clock.now == pytest.approx(seconds, abs=0.3)


@pytest.mark.parametrize("replaced", [True, False])
def test_a_reload_leaves_no_flag(drain, monkeypatch, tmp_path, replaced):
    """Also where the master keeps its old workers."""
    clock, flag, workers, told = Clock(), tmp_path / "drain", {2, 3}, []

    def hup(pid: int, number: int) -> None:
        told.append((pid, number, flag.exists()))
        workers.update({4, 5} if replaced else ())

    def children(_: int) -> set[int]:
        # The old ones end when the new ones have begun.
        assert flag.exists()
        if clock.now > 3 and replaced:
            workers.difference_update({2, 3})
        return set(workers)

    monkeypatch.setattr(drain, "time", clock)
    monkeypatch.setattr(drain, "clients", lambda _: {})
    monkeypatch.setattr(drain, "children", children)
    monkeypatch.setattr(drain.os, "kill", hup)
    assert drain.reload(1, flag) == (0 if replaced else 1)
    assert told == [(1, drain.signal.SIGHUP, True)]
    assert not flag.exists()
    assert clock.now > 3


@pytest.mark.parametrize(("elsewhere", "seconds"), [(True, 40), (False, 5)])
def test_the_last_requests_get_long_only_where_another_engine_takes_clients(
    drain, monkeypatch, tmp_path, elsewhere, seconds
):
    clock, told = Clock(), []
    own = Path("/proc/self").resolve().name
    monkeypatch.setattr(drain, "time", clock)
    monkeypatch.setattr(drain, "clients", lambda _: {})
    monkeypatch.setattr(drain, "answered", lambda: elsewhere)
    monkeypatch.setattr(drain.os, "kill", lambda pid, number: told.append((pid, number)))
    assert drain.stop(int(own), tmp_path / "drain") == 0
    assert told == [(int(own), drain.signal.SIGQUIT)]
    assert clock.now == pytest.approx(seconds + 1, abs=0.5)


# Taking an engine out of use


class Ending(Systemd):
    """A unit whose main process ends some time after the signal, or never."""

    def __init__(self, after: int, **properties: str) -> None:
        super().__init__(**properties)
        self.after = after

    def run_command(self, words: list[str]) -> tuple[int, str, str]:
        if words[1] == "show" and "kill" in self.done:
            self.after -= 1
            if self.after <= 0:
                self.properties["ActiveState"] = "inactive"
        return super().run_command(words)


def retire(monkeypatch, tmp_path, systemd: Systemd, check: bool = False, signal: str | None = "SIGUSR1") -> dict:
    """Run the module on a unit and return its result."""
    made = {}

    class Module(retired.AnsibleModule):
        def run_command(self, words, **_):
            return systemd.run_command(words)

        def exit_json(self, **result):
            made.update(result)

    monkeypatch.setattr(retired, "AnsibleModule", Module)
    monkeypatch.setattr(retired, "Unit", lambda module, name: unit(module, name, tmp_path))
    monkeypatch.setattr(retired, "PAUSE", 0.01)
    arguments = {"name": "haproxy@lb", "_ansible_check_mode": check} | (
        {"signal": signal, "timeout": 1} if signal else {}
    )
    with patch_module_args(arguments):
        retired.main()
    return made


unit = retired.Unit


def test_a_running_engine_finishes_and_ends(monkeypatch, tmp_path):
    systemd = Ending(after=3)
    result = retire(monkeypatch, tmp_path, systemd)
    assert (result["changed"], result["actions"]) == (True, ["disable", "drain", "stop"])
    assert systemd.done == ["disable", "kill", "stop"]
    assert ["systemctl", "kill", "--kill-whom=main", "--signal=SIGUSR1", "haproxy@lb.service"] in systemd.calls


def test_an_engine_whose_stop_finishes_its_requests_is_only_stopped(monkeypatch, tmp_path):
    systemd = Ending(after=3)
    result = retire(monkeypatch, tmp_path, systemd, signal=None)
    assert (result["changed"], result["actions"]) == (True, ["disable", "stop"])
    assert systemd.done == ["disable", "stop"]


def test_one_that_does_not_end_is_stopped(monkeypatch, tmp_path):
    systemd = Ending(after=10**9)
    assert retire(monkeypatch, tmp_path, systemd)["changed"]
    assert systemd.done[-1] == "stop"


@pytest.mark.parametrize(
    ("properties", "actions"),
    [
        ({"ActiveState": "inactive", "UnitFileState": ""}, []),
        ({"ActiveState": "inactive", "UnitFileState": "disabled"}, []),
        ({"ActiveState": "inactive", "UnitFileState": "enabled"}, ["disable"]),
        ({"ActiveState": "active", "UnitFileState": "disabled"}, ["drain", "stop"]),
        ({"ActiveState": "activating", "UnitFileState": "disabled"}, ["stop"]),
        ({"ActiveState": "failed", "UnitFileState": "enabled"}, ["disable"]),
    ],
)
def test_what_a_run_that_was_cut_off_left_is_mended(monkeypatch, tmp_path, properties, actions):
    result = retire(monkeypatch, tmp_path, Ending(after=1, **properties))
    assert (result["changed"], result["actions"]) == (bool(actions), actions)


def test_check_mode_tells_and_does_nothing(monkeypatch, tmp_path):
    systemd = Ending(after=1)
    assert retire(monkeypatch, tmp_path, systemd, check=True)["actions"] == ["disable", "drain", "stop"]
    assert systemd.done == []


def test_an_engine_that_is_ending_is_restarted_by_who_needs_it(tmp_path):
    """A run that was cut off while it drained, and then the other engine is chosen again."""
    file = tmp_path / "lb.conf"
    file.write_text("x")
    draining = unit(Systemd(), "nginx@lb", tmp_path / "units")
    draining.record([str(file)])
    assert draining.changed_since_load([str(file)]) == []
    draining.forsake()
    assert draining.changed_since_load([str(file)]) == [str(file)]
    draining.record([str(file)])
    assert draining.changed_since_load([str(file)]) == []


def test_types_of_compression_are_in_the_order_that_was_declared(lab_nginx):
    """A set of them would have another order in each run, and each run would change the file."""
    [line] = re.findall(r"(?m)^ *gzip_types (.*);$", configuration(lab_nginx).text)
    defaults = yaml.safe_load((ROOT / "roles/nginx/defaults/main.yml").read_text())
    assert line.split() == [kind for kind in defaults["nginx_lb_compression_types"] if kind != "text/html"]


def test_what_waits_for_a_node_that_lost_its_power_is_given_up(nginx):
    """On a kept connection it would vanish unnoticed; for all others the kernel asks, sooner than a client gives up."""
    text = configuration(nginx).text
    assert "proxy_socket_keepalive on;" in text
    assert not re.search(r"(?m)^ +keepalive \d", text)
    [settings] = {file.text for file in nginx.files if file.path == "/etc/sysctl.d/61-nginx.conf"}
    time, interval, probes = (
        int(re.search(rf"(?m)^net\.ipv4\.tcp_keepalive_{name} = (\d+)$", settings)[1])
        for name in ("time", "intvl", "probes")
    )
    assert time + interval * probes == 5
