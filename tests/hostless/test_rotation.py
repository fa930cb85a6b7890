"""Secrets that are changed: which passwords are accepted at each stage, who is given which, and what is told."""

from __future__ import annotations

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from landscape import ROOT, Landscape, load, problems
from terrace.services import listed

services = load("plugins/filter/services.py", "filter_services")
rotation = load("plugins/filter/rotation.py", "filter_rotation")
KEY = "0123456789abcdef0123456789abcdef"
PORTS = {"pgbouncer": 6432, "node_cache": 6379, "node_queue": 6380}
DECLARED = listed(
    {
        "my-shop": {"database": {}, "cache": True, "secrets": ["TOKEN"]},
        "jobs": {"queue": True},
        "plain": {},
    }
)
DATABASE, REDIS = "my-shop/database", "my-shop/redis"


def password(purpose: str) -> str:
    return services.derive(KEY, purpose)


def passwords(entry: dict | None) -> dict[str, str]:
    """Return the passwords of the database's roles at some point of its change, by role."""
    [database] = services.services_databases(DECLARED, KEY, {DATABASE: entry} if entry else None)
    roles = [database["owner"], *database["application"]["logins"], database["reader"]]
    return {role["name"].removeprefix("my_shop_"): role["password"] for role in roles}


def pooled(entry: dict | None) -> dict[str, str]:
    users = services.services_logins(DECLARED, KEY, {DATABASE: entry} if entry else None)
    return {user["name"].removeprefix("my_shop_"): user["password"] for user in users}


def environment(state: dict, owner: bool = False) -> dict[str, str]:
    its = DECLARED[1]
    return services.service_environment(its, DECLARED, PORTS, KEY, "app1", {"my-shop": {"TOKEN": "t"}}, owner, state)


def used(entry: dict | None, owner: bool = False) -> tuple[str, str]:
    """Return the login and the password that the service is given."""
    url = environment({DATABASE: entry} if entry else {}, owner)["DATABASE_URL"]
    user, _, secret = url.removeprefix("postgresql://").partition("@")[0].partition(":")
    return user.removeprefix("my_shop_"), secret


def purposes(number: int) -> dict[str, str]:
    """Return the purposes of a database's passwords of one generation, by role."""
    end = "" if number == 1 else f"/{number}"
    return {role: f"postgresql/my_shop/{role}{end}" for role in ("owner", "app_a", "app_b", "reader")}


# Passwords


@pytest.mark.parametrize("state", [None, {}, {"other/database": {"generation": 7}}, {DATABASE: {"generation": 1}}])
def test_what_was_never_changed_is_as_it_always_was(state):
    """The expected ones were computed with openssl, as in test_services_filter.py."""
    [database] = services.services_databases(DECLARED, KEY, state)
    known = {"postgresql/my_shop/owner": "v0lzRw3vZ9ruo6Y0Gm8Ve1BvIjgNvhPa474HxixmT_w"}
    assert known == {"postgresql/my_shop/owner": database["owner"]["password"]}
    assert {role: password(purpose) for role, purpose in purposes(1).items()} == passwords(None)
    assert services.services_logins(DECLARED, KEY, state) == services.services_logins(DECLARED, KEY)
    assert services.services_redis_users(DECLARED, KEY, state) == services.services_redis_users(DECLARED, KEY)
    assert services.derive(KEY, "redis/my-shop", 1) == "dTF239NuCkDkPG44WxM4UuiOCab0dMV50KKeHC_3AfU"
    assert used(None) == ("app_a", password("postgresql/my_shop/app_a"))


def test_files_of_an_environment_are_the_same_with_and_without_a_file_that_says_nothing(lab, tmp_path):
    """Byte for byte, all that templates write on any host."""
    (tmp_path / ".rotation.yml").write_text("# Nothing was changed yet.\n")
    state = lab.value("app1", "lab_state")
    file = str(tmp_path / ".rotation.yml")
    with_file = Landscape(ROOT / "inventory/lab", lab_state=state, topology_rotation_file=file)
    assert {(each.host, each.path): each.text for each in with_file.files} == {
        (each.host, each.path): each.text for each in lab.files
    }


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_databases_logins_take_turns(number):
    now, then = purposes(number), purposes(number + 1)
    here, there = ("app_a", "app_b") if number % 2 else ("app_b", "app_a")
    accept, use = ({"generation": number, "stage": stage} for stage in ("accept", "use"))
    both = {**{role: password(now[role]) for role in ("owner", "reader", here)}, there: password(then[there])}
    assert passwords({"generation": number})[here] == password(now[here])
    assert passwords(accept) == passwords(use) == both
    assert used({"generation": number}) == used(accept) == (here, password(now[here]))
    assert used(use) == (there, password(then[there]))
    assert pooled(accept) == pooled(use) == {role: both[role] for role in ("owner", "app_a", "app_b")}
    # What has come last is what a change has reached, whether all hosts know it or not.
    for after in ({"generation": number + 1, "stage": "retire"}, {"generation": number + 1}):
        assert used(after) == (there, password(then[there]))
        assert passwords(after) == {role: password(purpose) for role, purpose in then.items()}
        assert pooled(after) == {role: password(then[role]) for role in ("owner", there)}
        assert used(after, owner=True) == ("owner", password(then["owner"]))
        # The one that services had is another one now, which no pooler and no service ever gets.
        assert passwords(after)[here] not in {*both.values(), *pooled(after).values()}
    assert used(use, owner=True) == ("owner", password(now["owner"]))


def test_the_next_password_was_never_on_a_node_before():
    """Whoever read a node's files before a change knows nothing that is accepted after it."""
    known = set()
    for number in range(1, 6):
        after = pooled({"generation": number})
        assert not set(after.values()) & known
        known |= set(after.values())


def test_redis_accepts_both_while_services_change():
    def user(entry: dict) -> dict:
        return services.services_redis_users(DECLARED, KEY, {REDIS: entry})[1]

    def url(entry: dict) -> str:
        return environment({REDIS: entry})["REDIS_URL"].partition(":")[2].partition("@")[0].removeprefix("//my-shop:")

    one, two = password("redis/my-shop"), password("redis/my-shop/2")
    named = {"name": "my-shop", "instances": ["cache"]}
    assert user({"generation": 1}) == named | {"password": one}
    assert user({"generation": 1, "stage": "accept"}) == named | {"password": one, "also": [two]}
    assert user({"generation": 1, "stage": "use"}) == named | {"password": two, "also": [one]}
    assert user({"generation": 2, "stage": "retire"}) == user({"generation": 2}) == named | {"password": two}
    assert [url({"generation": 1, "stage": stage}) for stage in ("accept", "use")] == [one, two]


@pytest.mark.parametrize("stage", ["accept", "use", ""])
def test_the_access_list_of_redis_has_what_is_accepted(tmp_path, stage):
    entry = {"generation": 1, "stage": stage} if stage else {"generation": 2}
    file = tmp_path / ".rotation.yml"
    file.write_text(yaml.safe_dump({"users/redis": entry}))
    changed = Landscape(ROOT / "inventory/lab", lab_state=str(tmp_path))
    assert changed.value("cache1", "topology_rotation") == {"users/redis": entry}
    [text] = [file.text for file in changed.files_of("cache1") if file.path.endswith("redis-cache.acl")]
    [line] = [line for line in text.splitlines() if line.startswith("user users ")]
    assert line.count(" #") == (2 if stage else 1)


# What the environment's file says


def test_what_is_noted_is_what_is_read(tmp_path):
    file = tmp_path / ".rotation.yml"
    assert rotation.rotation_read(str(file)) == {}
    file.write_text(rotation.rotation_noted({}, DATABASE, 1, "accept"))
    assert rotation.rotation_read(str(file)) == {DATABASE: {"generation": 1, "stage": "accept"}}
    file.write_text(rotation.rotation_noted(rotation.rotation_read(str(file)), REDIS, 4))
    assert rotation.rotation_read(str(file))[REDIS] == {"generation": 4}
    assert file.read_text().startswith("# Which generation of its secrets")
    assert KEY not in file.read_text()
    file.write_text("# nothing yet\n")
    assert rotation.rotation_read(str(file)) == {}


WRONG = [
    ("- a\n", "has to be a mapping"),
    ("a/database: 2\n", "a/database: needs `generation`, and may have `stage`"),
    ("a/database: {generation: 2, step: use}\n", "a/database: needs `generation`, and may have `stage`"),
    ("a/database: {generation: 0}\n", "a/database.generation: is 0; has to be a whole number from 1"),
    ("a/database: {generation: true}\n", "a/database.generation: is True; has to be a whole number from 1"),
    ("a/database: {generation: 2, stage: both}\n", "a/database.stage: is 'both'; choose one of accept, use, retire"),
    ("a/database: {generation: 2\n", "is no valid YAML"),
    ("a/database: {generation: 2}\na/database: {generation: 3}\n", "the key 'a/database' is given twice; keep one"),
]


@pytest.mark.parametrize(("text", "told"), WRONG, ids=[told for _, told in WRONG])
def test_what_cannot_be_is_refused(tmp_path, text, told):
    file = tmp_path / ".rotation.yml"
    file.write_text(text)
    with pytest.raises(AnsibleFilterError) as raised:
        rotation.rotation_read(str(file))
    assert told in str(raised.value)


def test_make_check_tells_of_it(tmp_path):
    (tmp_path / ".rotation.yml").write_text("orders/database: {generation: 0}\n")
    told = f"{tmp_path}/.rotation.yml: orders/database.generation: is 0; has to be a whole number from 1"
    assert problems(ROOT / "inventory/lab", lab_state=str(tmp_path)) == [told]
    (tmp_path / ".rotation.yml").write_text("orders/database: {generation: 2}\n")
    assert problems(ROOT / "inventory/lab", lab_state=str(tmp_path)) == []


# Names


def test_names_are_what_there_is():
    assert rotation.rotation_names(DECLARED) == [
        "jobs/redis",
        "my-shop/database",
        "my-shop/redis",
        "my-shop/TOKEN",
        "certificates",
        "authority",
    ]
    assert [rotation.rotation_kind(name) for name in rotation.rotation_names(DECLARED)] == [
        *("redis", "database", "redis", "secret", "certificates", "authority")
    ]
    for name in rotation.rotation_names(DECLARED):
        assert rotation.rotation_refused(name, DECLARED) == ""


@pytest.mark.parametrize("name", ["", "my-shop/databse", "plain/redis", "nobody/x", "my-shop/OTHER"])
def test_a_name_of_nothing_is_told_what_there_is(name):
    told = rotation.rotation_refused(name, DECLARED)
    assert told.startswith(f"There is no secret '{name}' to change.")
    assert told.endswith(
        "NAME is one of jobs/redis, my-shop/database, my-shop/redis, my-shop/TOKEN, certificates, authority."
    )
    assert name != "my-shop/databse" or "Did you mean my-shop/database?" in told


def test_what_will_be_done_is_told():
    for name in rotation.rotation_names(DECLARED):
        first, *steps = rotation.rotation_told(name, {})
        assert first == f"change of {name}"
        assert len(steps) >= 2
        assert "{" not in "".join(steps)
    [first, *_] = rotation.rotation_told(REDIS, {REDIS: {"generation": 1, "stage": "use"}})
    assert first == f"change of {REDIS}, which was begun and never ended (it is at `use`)"


# What is held against what


@pytest.mark.parametrize(
    ("entry", "old", "new"),
    [
        ({"generation": 1, "stage": "accept"}, 1, 2),
        ({"generation": 1, "stage": "use"}, 1, 2),
        ({"generation": 2, "stage": "retire"}, 1, 2),
    ],
)
def test_what_is_tried_is_before_and_after(entry, old, new):
    state = {DATABASE: entry}
    pair = rotation.rotation_pair(state, DATABASE)
    assert pair == {"old": old, "new": new}
    logins = {which: rotation.rotation_login(DATABASE, number) for which, number in pair.items()}
    assert {which: login["user"] for which, login in logins.items()} == {
        "old": "my_shop_app_a",
        "new": "my_shop_app_b",
    }
    tried = {which: services.derive(KEY, logins[which]["purpose"], pair[which]) for which in pair}
    assert tried["new"] == passwords(entry)["app_b"]
    assert (tried["old"] == passwords(entry)["app_a"]) == (entry["stage"] != "retire")
    assert rotation.rotation_login(REDIS, 2) == {"user": "my-shop", "purpose": "redis/my-shop"}


def test_variables_with_a_secret_in_them():
    run = [{"name": "my-shop", "environment": environment({})}, {"name": "jobs", "environment": {}}]
    names = {name: sorted(rotation.rotation_variables(run, name)) for name in rotation.rotation_names(DECLARED)[:4]}
    assert names == {
        "jobs/redis": [],
        "my-shop/database": ["DATABASE_READ_URL", "DATABASE_SESSION_URL", "DATABASE_URL"],
        "my-shop/redis": ["REDIS_URL"],
        "my-shop/TOKEN": ["TOKEN"],
    }
    # A node where the service does not run.
    assert rotation.rotation_variables([], DATABASE) == {}


# The playbooks

CHANGES = [
    *((name, stage) for name in ("orders/database", "users/redis", "authority") for stage in rotation.rotations.STAGES),
    ("certificates", ""),
]
LIVE = {
    "live": "1f0c5ad0b2c9",
    "live_slot": "blue",
    "releases": {"1f0c5ad0b2c9": {"server": "uvicorn", "interface": "asgi"}},
}


def change(tmp_path, name: str, stage: str) -> Landscape:
    """Return what the command does in the lab, from a stage on."""
    entry = {"generation": 2 if stage == "retire" else 1, "stage": stage}
    (tmp_path / ".rotation.yml").write_text(yaml.safe_dump({name: entry} if stage else {}))
    service, kind = name.partition("/")[0], rotation.rotation_kind(name)
    facts = {service: LIVE}
    return Landscape(
        ROOT / "inventory/lab",
        "playbooks/rotate_secret.yml",
        lab_state=str(tmp_path),
        rotate_name=name,
        # What the playbook tells those that it imports, which Ansible evaluates for hosts of plays only while it runs.
        rotate_kind=kind,
        rotate_certificates="all" if kind == "certificates" else [],
        rotate_both="all" if kind == "authority" else [],
        rotate_onward="all" if kind == "authority" else [],
        deploy_kind="rotate",
        deploy_services=[service],
        deploy_hooks=[],
        rotate_expected={"new": "accepted", "old": "refused"},
        rotate_hosts="all" if kind in ("certificates", "authority") else [],
        rotate_anew=True,
        rotate_etcd=True,
        restart_tier="etcd" if kind == "authority" else "",
        # What is registered on the way.
        etcd_well={"leader": "db1"},
        rotate_lives={"services": facts},
        rotate_stale={"stale": [], "before": {}},
        deploy_before=facts,
        deploy_plan=rotation.rotation_plan(listed({service: {}}), facts) if "/" in name else {},
    )


@pytest.mark.parametrize(("name", "stage"), CHANGES)
def test_every_task_of_a_change_has_what_it_names(tmp_path, name, stage):
    landscape = change(tmp_path, name, stage)
    evaluated = set()
    for host in ("lb1", "app1", "cache1", "db1"):
        for step in landscape.steps(host):
            if not step.role:
                for item in step.items():
                    item.evaluate({**item.task.args, **item.task.vars})
                    evaluated.add(step.play.get_name())
    wanted = {"authority": "Have the old authority trusted no more", "certificates": "See that every port shows"}
    assert any(play.startswith(wanted.get(name, "Try passwords of")) for play in evaluated), evaluated


def tried(landscape: Landscape, host: str) -> set[tuple[str, str, str, str]]:
    """Return the logins that are tried: user, password, what is expected, and the port."""
    return {
        tuple(str(item.evaluate(item.task.args[key])) for key in ("user", "password", "expect", "port"))
        for step in landscape.steps(host)
        if step.task.action == "login_tried"
        for item in step.items()
    }


def test_both_passwords_are_tried_wherever_they_could_be_taken(tmp_path):
    landscape = change(tmp_path, "orders/database", "retire")
    old, new = (
        landscape.value("app1", f"vault_key | derive('postgresql/orders/app_{letter}', {number})")
        for letter, number in (("a", 1), ("b", 2))
    )
    ports = ("6432", "5432", "5433")
    assert tried(landscape, "app1") == {
        *(("orders_app_a", old, "refused", port) for port in ports),
        *(("orders_app_b", new, "accepted", port) for port in ports),
    }
    given = landscape.value("app1", "pgbouncer_users | items2dict(key_name='name', value_name='password')")
    assert given["orders_app_b"] == new
    assert "orders_app_a" not in given


def test_both_passwords_of_redis_are_tried_on_every_host(tmp_path):
    landscape = change(tmp_path, "users/redis", "retire")
    old, new = (landscape.value("cache1", f"vault_key | derive('redis/users', {number})") for number in (1, 2))
    for host in ("cache1", "cache2", "cache3"):
        assert tried(landscape, host) == {("users", old, "refused", "6379"), ("users", new, "accepted", "6379")}


@pytest.mark.parametrize(
    ("name", "groups"),
    [("a/database", ["app", "database"]), ("a/redis", ["app", "cache"]), ("a/X", ["app"]), ("authority", ["all"])],
)
def test_who_has_to_be_there(name, groups):
    assert rotation.rotation_hosts(name) == groups


def test_a_service_that_lives_nowhere_on_a_node_is_not_switched_there():
    services = listed({"a": {}, "b": {}})
    assert rotation.rotation_plan(services, {"a": {"live": ""}}) == {}
    built = {"live": "x1", "releases": {"x1": {"server": "granian", "interface": "wsgi"}}}
    assert rotation.rotation_plan(services, {"a": built})["a"] == {
        "id": "x1",
        "new": False,
        "node": "",
        "server": "granian",
        "interface": "wsgi",
    }


def test_what_is_left_to_do_is_told():
    def ended(name: str, **entry) -> str:
        return " ".join(rotation.rotation_ended(name, {name: entry} if entry else {}, ".rotation.yml"))

    assert "Commit .rotation.yml before anybody else runs anything" in ended(DATABASE, generation=2)
    assert "reader's login" in ended(DATABASE, generation=2)
    assert "Commit" not in ended("my-shop/TOKEN")
    assert "repeat the command without PAUSE" in ended("authority", generation=1, stage="accept")
    assert "give clients outside the new ca.crt" in ended("authority", generation=2)
