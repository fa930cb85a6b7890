"""The flip of a service's slots: what is decided from what is found, and how the node proxy's words are read."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType

import jinja2
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def load(path: str, name: str) -> ModuleType:
    """Return a file of the project as a module; `path` is relative to the project, and needs no .py."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / path))
    spec = importlib.util.spec_from_loader(name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


for util in ("releases", "systemd_unit"):
    load(f"plugins/module_utils/{util}.py", f"ansible.module_utils.{util}")
slot = load("plugins/modules/service_slot.py", "service_slot")
liveness = load("roles/python_service/files/terrace-liveness", "terrace_liveness")
Found = slot.Found


def plan(blue=None, green=None, live="", wanted="b"):
    return slot.make_plan({"blue": blue or Found(), "green": green or Found()}, live, wanted)


def test_nothing_there_starts_blue():
    assert plan() == slot.Plan("blue", start=True, stop_first=False, retire="", reasons=[])


def test_live_and_current_is_left_alone():
    assert plan(Found("b", running=True), Found("a"), "blue") == slot.Plan("blue", False, False, "", [])


def test_another_release_goes_to_the_other_slot():
    found = plan(Found("a", running=True), live="blue")
    assert found == slot.Plan("green", True, False, "blue", ["release a is replaced by b"])


def test_a_changed_file_goes_to_the_other_slot():
    found = plan(green=Found("b", running=True, changed=["/env"]), live="green")
    assert found == slot.Plan("blue", True, False, "green", ["/env changed"])


def test_a_restart_that_is_asked_for_goes_to_the_other_slot():
    found = plan(Found("b", running=True, asked=True), live="blue")
    assert found == slot.Plan("green", True, False, "blue", ["a restart was asked for"])


def test_a_restart_that_was_cut_off_is_finished():
    """The other slot runs already: it is not started again."""
    found = plan(Found("b", running=True, asked=True), Found("b", running=True), "blue")
    assert (found.slot, found.start, found.retire) == ("green", False, "blue")


def test_a_slot_that_ends_its_last_requests_is_not_gone_back_to_before_it_has_ended():
    found = plan(Found("a", True, stopping=True), Found("b", True), live="green", wanted="a")
    assert (found.slot, found.start, found.stop_first, found.retire) == ("blue", True, True, "green")


def test_a_slot_that_was_let_linger_is_waited_for():
    found = plan(Found("a", True, stopping=True), Found("b", True), live="green", wanted="b")
    assert (found.slot, found.start, found.retire) == ("green", False, "blue")


def test_a_stopped_live_slot_is_started_in_place():
    assert plan(Found("b"), Found("a"), "blue") == slot.Plan("blue", True, False, "", [])


def test_a_stopped_live_slot_keeps_its_release_until_the_next_one_is_ready():
    assert plan(Found("a"), live="blue") == slot.Plan("green", True, False, "", ["release a is replaced by b"])


def test_cut_off_before_the_new_slot_took_over():
    """Both run, the new one on the wanted release: it is not started again, only finished."""
    found = plan(Found("a", running=True), Found("b", running=True), "blue")
    assert (found.slot, found.start, found.retire) == ("green", False, "blue")


def test_cut_off_and_then_wanted_back():
    """Both run, and the live one is wanted after all: the other one goes."""
    found = plan(Found("a", running=True), Found("b", running=True), "blue", wanted="a")
    assert (found.slot, found.start, found.retire) == ("blue", False, "green")


def test_cut_off_and_then_a_third_release():
    """Both run, neither fits: the one that is not live makes room."""
    found = plan(Found("a", running=True), Found("b", running=True), "blue", wanted="c")
    assert (found.slot, found.start, found.stop_first, found.retire) == ("green", True, True, "blue")


def test_cut_off_after_the_old_slot_stopped():
    found = plan(Found("a"), Found("b", running=True), "blue")
    assert (found.slot, found.start, found.retire) == ("green", False, "")


def test_cut_off_in_the_first_start():
    """A slot runs and nothing is live yet: it becomes live without another start."""
    assert plan(green=Found("b", running=True)) == slot.Plan("green", False, False, "", [])


def test_a_boot_brought_the_old_slot_back():
    """The link had moved, the boot had not been told: the live slot comes up before the old one goes."""
    found = plan(Found("a", running=True), Found("b"), "green")
    assert (found.slot, found.start, found.retire) == ("green", True, "blue")


STATES = [
    Found(release, running, changed)
    for release, running, changed in itertools.product(("", "a", "b"), (False, True), ([], ["/env"]))
    if (running or not changed) and (release or not running)
]


@pytest.mark.parametrize("live", ["", "blue", "green"])
def test_from_every_state_one_run_ends_it_and_never_leaves_nothing(live):
    """What every plan has to keep: it ends with one slot on the wanted release, and a second run has nothing to do."""
    for blue, green in itertools.product(STATES, STATES):
        slots = {"blue": blue, "green": green}
        if live and not slots[live].release:
            continue
        found = slot.make_plan(slots, live, "b")
        serving = {name for name, state in slots.items() if state.running}
        assert found.stop_first <= found.start
        assert not (found.stop_first and found.slot == live and serving != set(slots)), (slots, live)
        if found.stop_first and live:
            assert found.slot != live
        after = {found.slot: Found("b", running=True), found.retire: Found()}
        again = slot.make_plan({"blue": Found(), "green": Found()} | after, found.slot, "b")
        assert again == slot.Plan(found.slot, False, False, "", [])


STAT = """# pxname,svname,qcur,qmax,scur,status,check_status,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,
orders,blue,0,0,3,UP,L7OK,0,10,1,2,99,
orders,green,0,0,0,DOWN,L4CON,0,0,0,0,0,
orders.write,blue,0,0,4,UP,L7OK,0,6,0,0,0,
orders.local,blue,0,0,1,UP,,0,1,0,0,5,
orders.any,blue,0,0,2,UP,,0,0,0,0,0,
orders.peers,app2,0,0,0,UP,,0,0,0,0,0,
users,blue,0,0,0,UP,L7OK,0,1000,0,0,0,

"""
STATE = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state
3 orders 1 blue - 2 8
3 orders 2 green - 0 0
4 orders.write 1 blue - 2 0
5 orders.local 1 blue - 2 16
"""


class CheckMode:
    """A module in check mode on a node where a service's first run was cut off: it has a directory, and no release."""

    check_mode = True

    def __init__(self, release: str) -> None:
        self.params = {"name": "orders", "release": release, "keep_live": True, "proxy_socket": "/nonexistent"}


@pytest.mark.parametrize(("release", "step"), [("", "start the wanted release"), ("r1", "start r1")])
def test_check_mode_expects_what_the_tasks_before_would_install(tmp_path, release, step):
    (tmp_path / "orders").mkdir()
    found = slot.Service(CheckMode(release), str(tmp_path)).converge()
    assert (found["steps"], found["previous_release"]) == ([step], "")


Answers = slot.Answers
# As HAProxy 3.0.11 prints it.
TABLE = """# table: orders.slots, type: string, size:16, used:2
0x7fa87d55d1c8: key=blue use=0 exp=0 shard=0 gpc0=40 gpc1=800
0x7fa87d55bcc8: key=app2 use=0 exp=0 shard=0 gpc0=9 gpc1=9

"""


def test_what_each_slot_has_answered():
    stat = STAT.replace("hrsp_5xx,", "hrsp_5xx,econ,eresp,").replace("99,\n", "99,1,2,\n")
    proxy = NodeProxy("orders", stat)
    proxy.table = TABLE
    assert proxy.answers() == {"blue": Answers(40, 800, 99 + 1 + 2 + 5), "green": Answers()}
    # One that prints them otherwise is found out, rather than believed to have seen nothing.
    proxy.table = TABLE.replace("gpc0", "gpc(0)").replace("gpc1", "gpc(1)")
    with pytest.raises(slot.SlotError, match="in a way that is not known: 0x7fa87d55d1c8: key=blue"):
        proxy.answers()


def test_answers_are_counted_anew_after_a_reload():
    assert Answers(30, 100, 7) - Answers(10, 40, 5) == Answers(20, 60, 2)
    assert Answers(3, 10, 0) - Answers(10, 40, 5) == Answers(3, 10, 0)


@pytest.mark.parametrize(
    ("new", "old", "told"),
    [
        (Answers(100, 0, 4), Answers(100), ""),  # too few to tell
        (Answers(100, 0, 5), Answers(100), "5 of its 100 requests had errors, 0 of 100 of the old slot"),
        (Answers(100, 0, 7), Answers(100, 0, 5), ""),  # the old one is hardly better
        (Answers(0, 0, 5), Answers(9, 0, 0), "5 of its 5 requests had errors, 0 of 9 of the old slot"),
        (Answers(500, 0, 9), Answers(500), ""),  # 1.8 in a hundred, and 2 are allowed
    ],
)
def test_a_new_slot_with_errors_of_its_own_is_faulty(new, old, told):
    assert slot.faulty(new, old, 2) == told


@pytest.mark.parametrize(
    ("new", "old", "told"),
    [
        (Answers(4, 0, 4), Answers(5), "4 of its 4 requests had errors, 0 of 5 of the old slot"),
        (Answers(2, 0, 1), Answers(5), ""),
        (Answers(4, 0, 2), Answers(5), ""),  # half is not more than half
        (Answers(4, 0, 3), Answers(4, 0, 2), ""),  # the old one has errors, too
    ],
)
def test_few_errors_tell_at_the_end_when_they_are_most_of_what_it_answered(new, old, told):
    assert slot.faulty(new, old, slot.HALF, slot.LEAST_ERRORS) == told


@pytest.mark.parametrize(
    ("new", "old", "told"),
    [
        ([Answers(20, 20 * 81)], [Answers(20, 20 * 10)], "it typically took 81 ms to answer, the old slot 10 ms"),
        ([Answers(20, 20 * 80)], [Answers(20, 20 * 10)], ""),  # three times, and 50 ms
        ([Answers(4, 4 * 900)], [Answers(20, 20 * 10)], ""),  # too few to tell
        ([Answers(20, 20 * 900)], [Answers(4, 4 * 10)], ""),
        # A report of ten seconds, in either: their means over all are 1,009 and 10 ms, and 800 and 1,009.
        ([Answers(5, 50), Answers(5, 10_040), Answers(), Answers()], [Answers(5, 50)] * 2, ""),
        (
            [Answers(5, 4000)] * 2,
            [Answers(5, 50), Answers(5, 10_040)],
            "it typically took 800 ms to answer, the old slot 10 ms",
        ),
    ],
)
def test_a_new_slot_that_takes_much_longer_is_slow(new, old, told):
    assert slot.slow(new, old, 3.0) == told


class Watched(slot.Service):
    """A service whose new slot `green` and old one `blue` answer ten times a second, on a clock of its own.

    Parameters:
        took: how long the new one takes, in milliseconds, by the seconds that have passed; the old one takes 10.
    """

    def __init__(self, took, monkeypatch, tmp_path) -> None:
        module = CheckMode("b")
        module.params |= {"watch": 4.0, "watch_errors": 2, "watch_slower": 3.0}
        (tmp_path / "orders").mkdir()
        super().__init__(module, str(tmp_path))
        self.took, self.now, self.sums, self.retired = took, 0.0, [0, 0], []
        self.proxy = self
        monkeypatch.setattr(slot.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(slot.time, "sleep", self.pass_time)

    def pass_time(self, seconds: float) -> None:
        count = round(10 * seconds)
        self.now += seconds
        self.sums = [self.sums[0] + count, self.sums[1] + count * self.took(self.now)]

    def answers(self) -> dict:
        count, milliseconds = self.sums
        return {"green": Answers(count, milliseconds), "blue": Answers(count, 10 * count)}

    def servers(self) -> dict:
        return {"green": slot.Server("UP", "L7OK", 0, False)}

    def retire(self, name: str) -> None:
        self.retired.append(name)


def test_a_new_slot_that_is_slow_at_first_is_looked_at_once_more(monkeypatch, tmp_path):
    service = Watched(lambda passed: 759 if passed < 4 else 10, monkeypatch, tmp_path)
    service.watch("green", "blue")
    assert service.retired == []
    assert service.now == 8


def test_a_new_slot_that_stays_slow_is_retired(monkeypatch, tmp_path):
    service = Watched(lambda _: 759, monkeypatch, tmp_path)
    with pytest.raises(slot.SlotError, match="it typically took 759 ms to answer, the old slot 10 ms"):
        service.watch("green", "blue")
    assert service.retired == ["green"]


def test_a_new_slot_that_does_well_is_looked_at_once(monkeypatch, tmp_path):
    service = Watched(lambda _: 12, monkeypatch, tmp_path)
    service.watch("green", "blue")
    assert service.now == 4


def test_rows_of_the_node_proxy():
    assert [row["status"] for row in slot.parse_rows(STAT, ",")] == ["UP", "DOWN", *["UP"] * 5]
    assert [row["srv_admin_state"] for row in slot.parse_rows(STATE, " ")] == ["8", "0", "0", "16"]
    assert slot.parse_rows("No such proxy.\n", ",") == []


class NodeProxy(slot.Proxy):
    """A node proxy that knows the servers of `stat` and `state`, and notes what it is told."""

    def __init__(self, service: str, stat: str = STAT, state: str = STATE) -> None:
        super().__init__("/nonexistent", service)
        self.stat, self.state, self.told, self.table = stat, state, [], ""

    def ask(self, command: str) -> str:
        if command.startswith("show table "):
            return self.table if command == f"show table {self.backend}.slots" else "Unknown table\n"
        if command.startswith("show "):
            return self.stat if command.startswith("show stat") else self.state
        self.told.append(command)
        backend = command.split()[2].split("/")[0]
        return "\n" if re.search(rf"^\d+ {re.escape(backend)} ", self.state, re.MULTILINE) else "No such backend.\n"


def test_a_slot_has_the_requests_of_every_backend_that_leads_to_it():
    """A flip waits for writes, for what a peer passed on, and for what came while nothing was ready."""
    found = NodeProxy("orders").servers()
    assert (found["blue"].sessions, found["green"].sessions) == (3 + 4 + 1 + 2, 0)
    assert (found["blue"].forced, found["green"].forced) == (True, False)
    with pytest.raises(slot.SlotError, match="knows no backend users"):
        NodeProxy("users").servers()


@pytest.mark.parametrize("state", ["DOWN,L7STS", "UP 1/3,L4CON", "DRAIN,L7OK", "UP,INI"])
def test_a_slot_is_ready_when_it_takes_writes_too(state):
    stat = STAT.replace("orders.write,blue,0,0,4,UP,L7OK", f"orders.write,blue,0,0,4,{state}")
    assert NodeProxy("orders").servers()["blue"].ready
    found = NodeProxy("orders", stat).servers()["blue"]
    assert (found.ready, f"{found.status},{found.check}") == (False, state)


def test_a_drain_left_in_one_backend_is_seen():
    state = STATE.replace("blue - 2 8", "blue - 2 0").replace("orders.write 1 blue - 2 0", "orders.write 1 blue - 2 8")
    assert NodeProxy("orders", state=state).servers()["blue"].forced


def test_both_checked_backends_are_told():
    proxy = NodeProxy("orders")
    proxy.tell("blue", "state drain")
    assert proxy.told == ["set server orders/blue state drain", "set server orders.write/blue state drain"]
    unbounded = NodeProxy("orders", state=STATE.replace("orders.write", "other"))
    unbounded.tell("blue", "state drain")
    assert unbounded.told == ["set server orders/blue state drain"]
    with pytest.raises(slot.SlotError, match="refused `set server users/blue state drain`: No such backend"):
        NodeProxy("users").tell("blue", "state drain")


@pytest.mark.parametrize(
    ("status", "check", "ready"),
    [
        ("UP", "L7OK", True),
        ("UP 1/2", "L7OK", True),
        ("UP", "* L7OK", True),  # the star: another check is under way
        ("UP", "INI", False),  # up before its first check
        ("UP", "", False),
        ("DOWN", "L7STS", False),
        ("DOWN 1/2", "L7OK", False),
        ("DRAIN", "L7OK", False),
        ("MAINT", "", False),
    ],
)
def test_only_a_passed_check_is_ready(status, check, ready):
    assert slot.Server(status, check, 0, False).ready is ready


def test_liveness_counts_answers_of_the_slot_itself():
    """Status 5xx does not count: the proxy writes such answers for a slot that hangs."""
    assert liveness.parse_stat(STAT, "orders", "blue") == ("UP", 20)
    assert liveness.parse_stat(STAT, "unknown", "blue") is None
    assert liveness.parse_stat("No such proxy.\n", "orders", "blue") is None
    assert liveness.parse_stat("", "orders", "blue") is None


def test_liveness_reads_the_unit(tmp_path):
    unit = (ROOT / "roles/python_service/templates/svc@.service.j2").read_text()
    section = unit[unit.index("[X-Terrace]") :]
    keys = [line.split("=")[0] for line in section.splitlines()[1:]]
    assert keys == ["Service", "Live", "Host", "Interval", "Timeout", "Failures", "Grace"]
    values = ["orders", "/healthz?a=b%20c", "localhost", "5", "5", "3", "60"]
    head = "[Service]\nEnvironment=A=%i\nEnvironment=B=2\nExecStart=/bin/x \\\n    --a=%% \\\n    b\n\n"
    lines = "\n".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    (tmp_path / "svc-orders@.service").write_text(f"{head}[X-Terrace]\n{lines}\n")
    (tmp_path / "svc-orders-mailer@.service").write_text(f"{head}[X-Terrace]\nService=orders\n")
    (tmp_path / "svc-broken@.service").write_text("no unit at all\n")
    assert liveness.read_settings(tmp_path) == [
        liveness.Settings("orders", "/healthz?a=b%20c", "localhost", 5.0, 5.0, 3, 60.0)
    ]


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("server", ["gunicorn", "uvicorn", "granian"])
def test_unit_of_a_slot_is_well_formed(server, interface):
    """Ansible drops the last line feed of what a template includes; two settings on one line would be lost silently."""
    folders = [ROOT / "roles/python_service/templates", ROOT / "templates"]
    templates = jinja2.Environment(  # noqa: S701  # no HTML
        loader=jinja2.FileSystemLoader(folders), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    templates.filters["comment"] = lambda text: f"# {text}"
    defaults = yaml.safe_load((ROOT / "roles/python_service/defaults/main.yml").read_text())
    service = {
        "name": "orders",
        "app": "orders.main:app",
        "interface": interface,
        "server": server,
        "workers": 2,
        "threads": 4,
        "health": {"live": "/healthz"},
        "timeout": {"request": 30, "stop": 30},
        "memory": "512M",
    }
    given = {"ansible_managed": "managed", "service": service}
    unit = templates.get_template("svc@.service.j2").render(defaults | given)
    start = unit[unit.index("ExecStart=") :].split("\n")
    command = list(itertools.takewhile(lambda line: line.endswith("\\"), start))
    assert start[len(command)] == "    orders.main:app"
    lines = [line for line in unit.splitlines() if line and not line.startswith(("#", "[", "    "))]
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+=[^=\[]*(=[^\[]*)?", line) for line in lines), lines
    settings = [line.split("=", 1) for line in lines]
    assert ["UMask", "0077"] in settings
    assert ["ReadWritePaths", "/run/terrace/orders"] in settings
    assert ["TimeoutStopSec", "35"] in settings
    assert f"python -m {server} " in unit


class TestSystemdEnv:
    """Each expected line was read back by systemd 257's own parser as the value it came from."""

    env = staticmethod(load("plugins/filter/systemd_env.py", "systemd_env").systemd_env)

    @pytest.mark.parametrize(
        ("value", "line"),
        [
            ("plain", 'X="plain"'),
            ("", 'X=""'),
            (" a  b ", 'X=" a  b "'),
            ('say "hi"', r'X="say \"hi\""'),
            ("it's", 'X="it\'s"'),
            ("p$$w${HOME}", r'X="p\$\$w\${HOME}"'),
            ("a#b;c=d%e!", 'X="a#b;c=d%e!"'),
            ("back\\slash\\", 'X="back\\\\slash\\\\"'),
            ("\\n", 'X="\\\\n"'),
            ("`id`", r'X="\`id\`"'),
            ("two\nlines", 'X="two\nlines"'),
            ("ä€", 'X="ä€"'),
            (True, 'X="true"'),
            (0, 'X="0"'),
            (1.5, 'X="1.5"'),
        ],
    )
    def test_quotes(self, value, line):
        assert self.env({"X": value}) == line

    def test_sorted_so_that_a_reordered_declaration_restarts_nothing(self):
        assert self.env({"B": 1, "A": 2}) == 'A="2"\nB="1"'
        assert self.env({}) == ""

    @pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A\n", "A=B", 1, "Ä"])
    def test_refuses_names_that_are_none(self, name):
        with pytest.raises(Exception, match="is not a name"):
            self.env({name: "x"})

    @pytest.mark.parametrize("value", ["hunter2\0", "hunter2\r", "\x1b[0m", "\x7f", None, ["hunter2"], {"hunter2": 1}])
    def test_refuses_values_that_would_be_lost_and_does_not_print_them(self, value):
        with pytest.raises(Exception, match=r"environment variable TOKEN: ") as raised:
            self.env({"TOKEN": value})
        assert "hunter2" not in str(raised.value)
