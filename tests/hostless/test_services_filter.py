"""What users declare of services: read, merged, refused in one line each, and brought into shape."""

from __future__ import annotations

import collections
import copy
import os
import re
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from landscape import ROOT, load
from terrace.contracts import contract
from terrace.services import RESERVED, Services

services = load("plugins/filter/services.py", "filter_services")
KEY = "0123456789abcdef0123456789abcdef"
PORTS = {"ssh": 22, "postgresql": 5432, "node_primary": 5432, "node_health": 8400, "pgbouncer": 6432}
GROUPS = {"all": ["a1", "a2", "d1"], "app": ["a1", "a2"], "jobs": ["a2"], "database": ["d1"], "none": []}
MINIMAL = {"source": {"path": "x"}, "app": "x:app", "interface": "asgi", "port": 8001}
KEYS = (
    "source, version, app, interface, server, workers, threads, writes, port, routes, static, limits, cached, "
    "purge_on_deploy, compression, health, timeout, memory, body, needs, database, cache, queue, environment, secrets, "
    "processes, schedule, on"
)


def problems(secrets: Any = None, **declared: dict) -> list[str]:
    """Return what is wrong with services, each given by what it has beside the minimum."""
    whole = {name.replace("_", "-"): MINIMAL | {"port": 8001 + n} | s for n, (name, s) in enumerate(declared.items())}
    return told(whole, secrets)


def told(declared: dict[str, dict], secrets: Any = None) -> list[str]:
    """Return what is wrong with services that are declared as a whole."""
    found = Services(declared, PORTS, GROUPS, secrets).findings
    return [
        ": ".join((".".join(filter(None, ("services", name, key))), text))
        for name, its in found.items()
        for key, text in its
    ]


def listed(**declared: dict) -> list[dict]:
    """Return services with every default filled in."""
    whole = {name.replace("_", "-"): MINIMAL | {"port": 8001 + n} | s for n, (name, s) in enumerate(declared.items())}
    assert told(whole, {n: dict.fromkeys("AB", "x") for n in whole}) == []
    return services.services_list(whole)


# Reading


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "orders.yml").write_text(
        "app: orders:app\nhealth: {live: /l, ready: /r}\nneeds: [users]\ncache: true\n"
    )
    (tmp_path / "users.yml").write_text("app: users:app\n")
    return tmp_path


def test_declared_is_merged(directory):
    over = {"orders": {"health": {"ready": "/x"}, "needs": [], "cache": None}, "users": None}
    assert services.services_declared(over, str(directory)) == {
        "orders": {"app": "orders:app", "health": {"live": "/l", "ready": "/x"}, "needs": [], "cache": None},
        "users": {"app": "users:app"},
    }


def test_merging_changes_nothing_that_is_read_again(directory):
    services.services_declared({"orders": {"health": {"ready": "/x"}}}, str(directory))
    assert services.services_declared({"orders": {}}, str(directory))["orders"]["health"] == {
        "live": "/l",
        "ready": "/r",
    }


def test_a_file_that_changed_is_read_again(directory):
    assert services.services_declared({"users": {}}, str(directory)) == {"users": {"app": "users:app"}}
    (directory / "users.yml").write_text("app: other:app\n")
    os.utime(directory / "users.yml", (1, 1))
    assert services.services_declared({"users": {}}, str(directory)) == {"users": {"app": "other:app"}}


def test_a_bare_on_is_a_key(directory):
    """YAML 1.1 reads it as true, in the file and in the environment."""
    (directory / "users.yml").write_text("app: users:app\non: app\n")
    assert services.services_declared({"users": {}}, str(directory))["users"]["on"] == "app"
    assert services.services_declared({"users": {True: "jobs"}}, str(directory))["users"]["on"] == "jobs"
    assert services.services_declared({"orders": {True: "jobs"}}, str(directory))["orders"]["on"] == "jobs"


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_services(directory, nothing):
    assert services.services_declared(nothing, str(directory)) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port: 1\napp: a\nport: 2\n", "{file}:3: the key 'port' is given twice; keep one"),
        ("health:\n  live: /a\n  live: /b\n", "{file}:3: the key 'live' is given twice; keep one"),
        (
            "app: [\n",
            "{file}:2: is no valid YAML (did not find expected node content); close every bracket and quote, and"
            " indent keys of one mapping alike",
        ),
        ("- app\n", "{file}: has to be a mapping of a service's keys"),
        ("", "{file}: has to be a mapping of a service's keys"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    file = tmp_path / "shop.yml"
    file.write_text(text)
    with pytest.raises(AnsibleFilterError) as raised:
        services.services_declared({"shop": {}}, str(tmp_path))
    assert str(raised.value) == message.format(file=file)


def test_a_file_that_is_missing(directory):
    with pytest.raises(AnsibleFilterError) as raised:
        services.services_declared({"order": {}}, str(directory))
    assert str(raised.value) == (f"services.order: there is no {directory}/order.yml; did you mean 'orders'?")


def test_a_file_that_is_missing_where_there_is_none(tmp_path):
    with pytest.raises(AnsibleFilterError) as raised:
        services.services_declared({"order": {}}, str(tmp_path))
    assert str(raised.value) == (f"services.order: there is no {tmp_path}/order.yml; write it")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["orders"], "services: has to be a mapping, with each service's name as a key"),
        ({"orders": "v1.4.0"}, "services.orders: is 'v1.4.0'; has to be a mapping of what differs here"),
    ],
)
def test_an_environment_that_is_no_mapping(directory, overrides, message):
    with pytest.raises(AnsibleFilterError) as raised:
        services.services_declared(overrides, str(directory))
    assert str(raised.value) == message


# Refusing


def test_nothing_wrong():
    everything = {
        "version": "v1",
        "server": "granian",
        "workers": 3,
        "threads": 2,
        "writes": 3,
        "routes": [{"host": "a.example.com", "path": "/a"}, {"path": "/"}],
        "static": {"url": "/a/static/", "directory": "web/dist", "command": "npm ci && npm run build"},
        "cached": [{"path": "/a/*", "seconds": 60, "vary": ["Accept-Language"], "bypass": {"cookies": ["session"]}}],
        "purge_on_deploy": True,
        "compression": ["brotli", "gzip"],
        "health": {"live": "/l?x=1", "ready": "/r"},
        "timeout": {"request": 1, "stop": 2},
        "memory": "1G",
        "body": "1K",
        "needs": ["users"],
        "database": {"migrate": "x", "pool": 2},
        "cache": True,
        "limits": [{"path": "/x", "requests": 5, "methods": ["POST"], "by": "all"}],
        "queue": True,
        "environment": {"A": 1, "B": True, "C": "c", "D": 0.5},
        "secrets": ["S"],
        "processes": {"mailer": {"command": "x", "count": 0}},
        "schedule": {"report": {"command": "x", "at": "daily"}},
        "on": "jobs",
    }
    assert problems({"shop": {"S": "x"}}, shop=everything, users={"database": None}) == []
    assert set(everything) | set(MINIMAL) == set(contract("service"))


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ({"databse": {}}, "databse: unknown key; did you mean 'database'?"),
        ({"xyzzy": 1}, f"xyzzy: unknown key; known are {KEYS}"),
        ({"health": {"liev": "/"}}, "health.liev: unknown key; did you mean 'live'?"),
        ({"database": {"poool": 1}}, "database.poool: unknown key; did you mean 'pool'?"),
        ({"app": None}, "app: is None; has to be text"),
        ({"port": "8001"}, "port: is '8001'; has to be a whole number"),
        ({"port": True}, "port: is True; has to be a whole number"),
        ({"workers": "many"}, "workers: is 'many'; has to be a whole number or auto"),
        ({"workers": True}, "workers: is True; has to be a whole number or auto"),
        ({"interface": "ASGI"}, "interface: is 'ASGI'; has to be one of asgi, wsgi"),
        ({"server": "nginx"}, "server: is 'nginx'; has to be one of granian, gunicorn, uvicorn"),
        ({"cache": "yes"}, "cache: is 'yes'; has to be true or false"),
        ({"routes": {"path": "/"}}, "routes: is {'path': '/'}; has to be a list of mappings"),
        ({"needs": "users"}, "needs: is 'users'; has to be a list of text"),
        ({"needs": [{"name": "users"}]}, "needs: is [{'name': 'users'}]; has to be a list of text"),
        ({"secrets": [1]}, "secrets: is [1]; has to be a list of text"),
        ({"health": "/healthz"}, "health: is '/healthz'; has to be a mapping"),
        ({"database": True}, "database: is True; has to be a mapping"),
        ({"database": {"pool": "10"}}, "database.pool: is '10'; has to be a whole number"),
        ({"version": 1.1}, "version: is 1.1; has to be text; put it in quotes"),
        ({"environment": ["A=1"]}, "environment: is ['A=1']; has to be a mapping"),
        ({"processes": None}, "processes: is None; has to be a mapping"),
        ({"source": {}}, "source: give exactly one of path, git or pypi"),
        ({"source": {"path": "a", "git": "b"}}, "source: give exactly one of path, git or pypi"),
        ({"app": "orders.main"}, "app: is 'orders.main'; has to be package.module:callable"),
        ({"app": "orders.main:app()"}, "app: is 'orders.main:app()'; has to be package.module:callable"),
        ({"memory": "512"}, "memory: is '512'; has to be a size such as 512M"),
        ({"body": "1.5G"}, "body: is '1.5G'; has to be a size such as 512M"),
        ({"health": {"live": "healthz"}}, "health.live: is 'healthz'; has to be a path, starting with /"),
        ({"health": {"ready": "/a b"}}, "health.ready: is '/a b'; has to be a path, starting with /"),
        ({"workers": 0}, "workers: is 0; has to be 1 or more"),
        ({"threads": 0}, "threads: is 0; has to be 1 or more"),
        ({"writes": -1}, "writes: is -1; has to be 0 or more"),
        ({"writes": "some"}, "writes: is 'some'; has to be a whole number or auto"),
        ({"timeout": {"request": 0}}, "timeout.request: is 0; has to be 1 or more"),
        ({"timeout": {"stop": -1}}, "timeout.stop: is -1; has to be 1 or more"),
        ({"database": {"pool": 0}}, "database.pool: is 0; has to be 1 or more"),
        ({"port": 80}, "port: is 80; has to be between 1024 and 65535"),
        ({"port": 70000}, "port: is 70000; has to be between 1024 and 65535"),
        ({"port": 8400}, "port: 8400 is taken by the stack's 'node_health'; choose another"),
        ({"port": 5432}, "port: 5432 is taken by the stack's 'node_primary'; choose another"),
        ({"routes": ["/x"]}, "routes[0]: is '/x'; has to be a mapping with host, path, strip"),
        ({"routes": [{"pth": "/x", "host": "h"}]}, "routes[0].pth: unknown key; did you mean 'path'?"),
        ({"routes": [{"strip": "yes", "path": "/x"}]}, "routes[0].strip: is 'yes'; has to be true or false"),
        ({"routes": [{"path": "/a"}, {}]}, "routes[1]: give a host, a path, or both"),
        ({"routes": [{"path": "x"}]}, "routes[0].path: is 'x'; has to start with /"),
        ({"routes": [{"path": "/a b"}]}, "routes[0].path: is '/a b'; cannot contain spaces, # or ?"),
        (
            {"routes": [{"host": "a.example.com:80"}]},
            "routes[0].host: is 'a.example.com:80'; has to be a host name alone, without port or path",
        ),
        (
            {"routes": [{"path": "/a"}, {"path": "/a/"}]},
            "routes[1]: the same route belongs to 'shop'; remove one",
        ),
        ({"needs": ["user"]}, "needs: there is no service 'user' here; did you mean 'users'?"),
        ({"environment": {"A": None}}, "environment.A: is None; has to be text, a number, true or false"),
        ({"environment": {"A": [1]}}, "environment.A: is [1]; has to be text, a number, true or false"),
        ({"secrets": ["TOKEN"]}, "secrets: TOKEN is not in the vault; add vault_services.shop.TOKEN"),
        ({"on": "batch"}, "on: there is no group 'batch' in the inventory; add it to hosts.yml"),
        ({"on": "none"}, "on: the group 'none' has no host; add one"),
        (
            {"on": "database"},
            "on: the group 'database' has hosts that are not in 'app': d1; services run on app hosts",
        ),
        ({"processes": {"mailer": {}}}, "processes.mailer.command: is missing; give text"),
        ({"processes": {"mailer": "python"}}, "processes.mailer: is 'python'; has to be a mapping with command, count"),
        (
            {"processes": {"Mailer": {"command": "x"}}},
            "processes.Mailer: a name is 1 to 24 of a-z, 0-9 and -, and starts with a letter",
        ),
        (
            {"processes": {"mailer": {"command": "x", "cuont": 2}}},
            "processes.mailer.cuont: unknown key; did you mean 'count'?",
        ),
        ({"schedule": {"report": {"command": "x"}}}, "schedule.report.at: is missing; give text"),
        ({"schedule": {"report": {"at": "daily"}}}, "schedule.report.command: is missing; give text"),
    ],
)
def test_what_is_refused(service, message):
    assert problems(shop=service, users={}) == [f"services.shop.{message}"]


@pytest.mark.parametrize(
    ("key", "what"),
    [("source", "a mapping"), ("app", "text"), ("interface", "one of asgi, wsgi"), ("port", "a whole number")],
)
def test_keys_that_have_to_be_given(key, what):
    service = {name: value for name, value in MINIMAL.items() if name != key}
    assert told({"shop": service}) == [f"services.shop.{key}: is missing; give {what}"]


@pytest.mark.parametrize("name", ["", "1shop", "Shop", "sh_op", "shop.", "-shop", "s" * 25, "bücher"])
def test_names_that_are_refused(name):
    assert told({name: MINIMAL}) == [
        f"{'services.' + name if name else 'services'}: a name is 1 to 24 of a-z, 0-9 and -, and starts with a letter"
    ]


@pytest.mark.parametrize("name", ["s", "shop-2", "s" * 24])
def test_names_that_are_taken(name):
    assert told({name: MINIMAL}) == []


@pytest.mark.parametrize(("name", "daemon"), [("admin", "Redis"), ("monitor", "Redis"), ("postgres", "PostgreSQL")])
def test_names_that_daemons_keep(name, daemon):
    assert told({name: MINIMAL}) == [f"services.{name}: {daemon} keeps this name for itself; choose another"]


def test_every_user_of_redis_is_a_name_that_is_kept():
    access = (ROOT / "roles/redis/templates/redis.acl.j2").read_text()
    users = set(re.findall(r"(?m)^user ([a-z]+) ", access))
    assert users == {name for name, daemon in RESERVED.items() if daemon == "Redis"}


@pytest.mark.parametrize("variable", ["A-B", "1A", "", "A B", 1])
@pytest.mark.parametrize("key", ["environment", "secrets"])
def test_names_of_variables(key, variable):
    given = {"environment": {variable: "x"}, "secrets": [str(variable)]}[key]
    name = variable if key == "environment" else str(variable)
    assert problems({"shop": {str(variable): "x"}}, shop={key: given}) == [
        f"services.shop.{key}: {name!r} cannot be the name of an environment variable"
    ]


@pytest.mark.parametrize("vault", [None, {}, {"shop": None}, {"shop": {"T": ""}}, {"other": {"T": "x"}}])
def test_a_secret_has_to_be_in_the_vault(vault):
    assert problems(vault, shop={"secrets": ["T"]}) == [
        "services.shop.secrets: T is not in the vault; add vault_services.shop.T"
    ]


def test_two_services_on_one_port():
    assert problems(a={"port": 9000}, b={"port": 9000}, c={"port": 9000}) == [
        "services.b.port: 9000 is taken by the service 'a'; choose another",
        "services.c.port: 9000 is taken by the service 'a'; choose another",
    ]


def test_one_route_of_two_services():
    """Host names are alike whatever their case, and a closing slash says nothing."""
    assert problems(
        a={"routes": [{"host": "Shop.example.com", "path": "/x/"}, {"path": "/"}]},
        b={"routes": [{"host": "shop.example.com", "path": "/x"}, {"path": "/x"}, {"path": "/"}]},
    ) == [
        "services.b.routes[0]: the same route belongs to 'a'; remove one",
        "services.b.routes[2]: the same route belongs to 'a'; remove one",
    ]


@pytest.mark.parametrize("alias", ["read", "session"])
def test_a_database_named_as_anothers_alias(alias):
    """The pooler would have two databases of one name."""
    database = {"database": {}}
    message = (
        f"services.shop-x-{alias}.database: the database of 'shop-x' has an alias shop_x_{alias}, which is"
        " this service's database; choose another name"
    )
    assert problems(**{"shop_x": database, f"shop_x_{alias}": database}) == [message]
    assert problems(**{f"shop_x_{alias}": database, "shop_x": database}) == [message]
    assert problems(**{"shop_x": {}, f"shop_x_{alias}": database}) == []
    assert problems(**{"shop_x": database, f"shop_x_{alias}": {}}) == []


def test_a_process_with_the_unit_of_a_service():
    process = {"processes": {"mailer": {"command": "x"}}}
    assert problems(shop=process, shop_mailer={}) == [
        "services.shop.processes.mailer: its unit svc-shop-mailer@ is that of the service 'shop-mailer';"
        " choose another name"
    ]


def test_all_problems_at_once():
    assert problems(a={"port": 22, "app": "x", "needs": ["z"]}, b={"workers": 0}) == [
        "services.a.app: is 'x'; has to be package.module:callable",
        "services.a.port: is 22; has to be between 1024 and 65535",
        "services.a.needs: there is no service 'z' here; known are a, b",
        "services.b.workers: is 0; has to be 1 or more",
    ]


# Filling in


def test_defaults():
    assert services.services_list({"b": MINIMAL | {"port": 8002}, "a": MINIMAL}) == [
        {
            "source": {"path": "x"},
            "version": "",
            "app": "x:app",
            "interface": "asgi",
            "server": "gunicorn",
            "workers": "auto",
            "threads": 4,
            "writes": "auto",
            "port": port,
            "routes": [],
            "static": None,
            "limits": [],
            "cached": [],
            "purge_on_deploy": False,
            "compression": None,
            "health": {"live": "/healthz", "ready": "/readyz"},
            "timeout": {"request": 30, "stop": 30},
            "memory": "512M",
            "body": "16M",
            "needs": [],
            "database": None,
            "cache": False,
            "queue": False,
            "environment": {},
            "secrets": [],
            "processes": {},
            "schedule": {},
            "on": "app",
            "name": name,
        }
        for name, port in (("a", 8001), ("b", 8002))
    ]


def test_nested_defaults():
    [service] = listed(
        my_shop={
            "routes": [{"path": "/x"}],
            "health": {"ready": "/r"},
            "database": {},
            "processes": {"p": {"command": "c"}},
            "schedule": {"s": {"command": "c", "at": "daily"}},
        }
    )
    assert service["routes"] == [{"host": "", "path": "/x", "strip": False}]
    assert service["health"] == {"live": "/healthz", "ready": "/r"}
    assert service["database"] == {
        **{"migrate": "", "migrate_after": "", "check": "", "pool": 10, "name": "my_shop"},
        **{"connections": None, "extensions": [], "settings": {}, "indexes": {}, "queries": {}},
    }
    assert service["processes"] == {"p": {"command": "c", "count": 1}}
    assert service["schedule"] == {"s": {"command": "c", "at": "daily"}}


def test_listing_leaves_what_was_declared_as_it_was():
    declared = {"shop": MINIMAL | {"database": {"pool": 3}, "routes": [{"path": "/"}]}}
    before = copy.deepcopy(declared)
    services.services_list(declared)
    assert declared == before


@pytest.mark.parametrize(
    ("size", "number"), [("1K", 1024), ("16M", 16777216), ("2G", 2147483648), ("1T", 1099511627776)]
)
def test_sizes(size, number):
    assert services.size_in_bytes(size) == number


@pytest.mark.parametrize("size", ["", "16", "M", "0M", "1.5G", "16m", "16MB"])
def test_sizes_that_are_none(size):
    with pytest.raises(AnsibleFilterError) as raised:
        services.size_in_bytes(size)
    assert str(raised.value) == f"{size!r} is not a size; write a number and K, M, G or T, such as 512M"


# Secrets


def test_derived_passwords():
    """The expected one was computed with openssl: `printf %s PURPOSE | openssl dgst -sha256 -hmac KEY -binary`."""
    assert services.derive(KEY, "postgresql/superuser") == "5v1_UY3wub8VT7j--JsL-BIU5cxpeQojQLV2h-KHQj0"
    others = {services.derive(KEY, purpose) for purpose in ("a", "b", "a/b")} | {services.derive(KEY[::-1], "a")}
    assert len(others) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", password) for password in others)


@pytest.mark.parametrize("key", ["", "x" * 31, None, 1])
def test_a_key_that_is_too_short(key):
    with pytest.raises(AnsibleFilterError) as raised:
        services.derive(key, "x")
    assert str(raised.value) == "vault_key is missing or shorter than 32 characters; set it in the environment's vault"


def password(purpose: str) -> str:
    return services.derive(KEY, purpose)


def test_databases_and_their_logins():
    declared = listed(my_shop={"database": {}}, other={})
    databases = services.services_databases(declared, KEY)
    assert databases == [
        {
            "name": "my_shop",
            "owner": {"name": "my_shop_owner", "password": password("postgresql/my_shop/owner")},
            "application": {
                "name": "my_shop_app",
                "logins": [
                    {"name": "my_shop_app_a", "password": password("postgresql/my_shop/app_a")},
                    {"name": "my_shop_app_b", "password": password("postgresql/my_shop/app_b")},
                ],
            },
            "reader": {"name": "my_shop_reader", "password": password("postgresql/my_shop/reader")},
            **{"connections": -1, "extensions": [], "settings": {}},
        }
    ]
    assert services.services_logins(declared, KEY) == [
        {"name": "my_shop_owner", "password": password("postgresql/my_shop/owner")},
        {"name": "my_shop_app_a", "password": password("postgresql/my_shop/app_a")},
        {"name": "my_shop_app_b", "password": password("postgresql/my_shop/app_b")},
    ]
    assert services.services_logins([], KEY) == []


def test_pools():
    assert services.services_pools(listed(my_shop={"database": {"pool": 7}}, other={})) == [
        {"name": "my_shop", "database": "my_shop", "mode": "transaction", "target": "primary", "pool": 7},
        {"name": "my_shop_read", "database": "my_shop", "mode": "transaction", "target": "replica", "pool": 7},
        {"name": "my_shop_session", "database": "my_shop", "mode": "session", "target": "primary", "pool": 2},
    ]


def test_redis_users():
    declared = listed(a={"cache": True}, b={"queue": True}, c={"cache": True, "queue": True}, d={})
    assert services.services_redis_users(declared, KEY) == [
        {"name": "a", "password": password("redis/a"), "instances": ["cache"]},
        {"name": "b", "password": password("redis/b"), "instances": ["queue"]},
        {"name": "c", "password": password("redis/c"), "instances": ["cache", "queue"]},
    ]


# Shapes for roles

A1, A2 = {"name": "a1", "address": "10.0.0.1"}, {"name": "a2", "address": "10.0.0.2"}
ADDRESSES = {node["name"]: {"ansible_host": node["address"]} for node in (A1, A2)}


def named(**sizes: int) -> tuple[dict[str, list[str]], dict[str, dict]]:
    """Return groups and hostvars of as many hosts as are wanted of each group, whose addresses are their names."""
    groups = {group: [f"{group}{number}" for number in range(size)] for group, size in sizes.items()}
    return groups, {host: {} for hosts in groups.values() for host in hosts}


def test_backends_of_the_load_balancer():
    declared = listed(a={"routes": [{"path": "/a"}], "timeout": {"request": 7}, "body": "1M"}, inner={})
    assert services.services_backends(declared, GROUPS, ADDRESSES, 8400) == [
        {
            "name": "a",
            "routes": [{"host": "", "path": "/a", "strip": False}],
            "nodes": [A1, A2],
            "port": 8001,
            "health_port": 8400,
            "timeout_request": 7,
            "body_max_bytes": 1048576,
            "limits": [],
            "cached": [],
            "compression": ["brotli", "gzip"],
            "brotli_asked": False,
        }
    ]


def test_ingress_of_a_node():
    declared = listed(
        a={"routes": [{"path": "/a"}, {"host": "H.example.com"}], "timeout": {"stop": 9}},
        b={"on": "jobs", "routes": [{"path": "/b"}], "static": {"url": "/b/files/"}},
    )
    size = {"interface": "asgi", "workers": "auto", "threads": 4, "memory": "512M", "writes": 0}
    assert services.services_ingress(declared, GROUPS, ADDRESSES, "a2") == [
        {
            "name": "a",
            "port": 8001,
            "ready": "/readyz",
            "host_header": "H.example.com",
            "timeout_request": 30,
            "timeout_stop": 9,
            **size,
            "static": "",
            "peers": [A1],
        },
        {
            "name": "b",
            "port": 8002,
            "ready": "/readyz",
            "host_header": "localhost",
            "timeout_request": 30,
            "timeout_stop": 30,
            **size,
            "static": "/b/files/",
            "peers": [],
        },
    ]


def test_needs_of_a_node():
    """Each once, ordered as services are, also those that do not run on the node."""
    declared = listed(a={"needs": ["c", "b"]}, b={"needs": ["c"], "timeout": {"request": 5}}, c={"on": "jobs"}, d={})
    assert services.services_needs(declared[:2], declared, GROUPS, ADDRESSES, 8400, "a1") == [
        {"name": "b", "port": 8002, "health_port": 8400, "nodes": [A1, A2], "timeout_request": 5},
        {"name": "c", "port": 8003, "health_port": 8400, "nodes": [A2], "timeout_request": 30},
    ]
    assert services.services_needs(declared[2:], declared, GROUPS, ADDRESSES, 8400, "a1") == []


def test_writes_have_a_bound_where_they_may_have_to_wait():
    declared = listed(
        a={"database": {}},
        b={"queue": True},
        c={"needs": ["a"]},
        d={"cache": True},
        e={"database": {}, "writes": 0},
        f={"writes": 7},
    )
    found = services.services_ingress(declared, GROUPS, ADDRESSES, "a1")
    assert {service["name"]: service["writes"] for service in found} == {
        **dict.fromkeys("abc", "auto"),
        "d": 0,
        "e": 0,
        "f": 7,
    }


def test_peers_come_the_next_by_name_first():
    names = ["n3", "n1", "n4", "n2"]
    (found,) = services.services_ingress(listed(a={}), {"app": names}, {name: {} for name in names}, "n3")
    assert [peer["name"] for peer in found["peers"]] == ["n4", "n1", "n2"]


def test_peers_do_not_grow_with_the_nodes():
    groups, hostvars = named(app=300)
    (found,) = services.services_ingress(listed(a={}), groups, hostvars, "app299")
    assert [peer["name"] for peer in found["peers"]] == [f"app{name}" for name in (3, 30, 31, 32, 33, 34, 35, 36)]


@pytest.mark.parametrize(
    ("callers", "targets"), [(40, 40), (3, 3), (20, 50), (2, 50), (50, 2), (7, 30)], ids=lambda value: str(value)
)
def test_callers_share_the_nodes_of_a_need(callers, targets):
    """Every node is called, none by many more than another, and what one caller checks does not grow with the nodes."""
    declared = listed(a={"needs": ["b"]}, b={"on": "jobs"})
    groups, hostvars = named(app=callers, jobs=targets)
    calls = collections.Counter()
    for caller in groups["app"]:
        (need,) = services.services_needs(declared[:1], declared, groups, hostvars, 8400, caller)
        names = [node["name"] for node in need["nodes"]]
        assert len(names) == len(set(names)) == min(targets, max(8, -(-targets // callers)))
        calls.update(names)
    assert len(calls) == targets
    assert max(calls.values()) <= 2 * min(calls.values())


def test_a_node_calls_itself_first():
    declared = listed(a={"needs": ["b"]}, b={})
    groups, hostvars = named(app=30)
    for node in groups["app"]:
        (need,) = services.services_needs(declared, declared, groups, hostvars, 8400, node)
        assert need["nodes"][0]["name"] == node
        assert len(need["nodes"]) == 8


def test_routes_come_most_specific_first():
    declared = listed(
        a={"routes": [{"path": "/"}, {"path": "/a/b/", "strip": True}, {"host": "Z.example.com"}]},
        b={"routes": [{"path": "/a"}, {"host": "z.example.com", "path": "/a"}, {"host": "y.example.com"}]},
    )
    assert [tuple(route.values()) for route in services.services_routes(declared)] == [
        ("b", "z.example.com", "/a", False),
        ("b", "y.example.com", "", False),
        ("a", "z.example.com", "", False),
        ("a", "", "/a/b", True),
        ("b", "", "/a", False),
        ("a", "", "", False),
    ]
    assert list(services.services_routes(declared)[0]) == ["service", "host", "path", "strip"]


def test_members():
    groups = {"app": ["a", "b", "c"]}
    hostvars = {"a": {"address": "10.0.0.1", "ansible_host": "x"}, "b": {"ansible_host": "10.0.0.2"}, "c": {}}
    assert services.members("app", groups, hostvars) == [
        {"name": "a", "address": "10.0.0.1"},
        {"name": "b", "address": "10.0.0.2"},
        {"name": "c", "address": "c"},
    ]
    assert services.members("cache", groups, hostvars) == []
    groups["loadbalancer"] = ["d", "a"]
    hostvars["d"] = {}
    wanted = ["loadbalancer", "cache", "app"]
    assert services.members_addresses(wanted, groups, hostvars) == ["d", "10.0.0.1", "10.0.0.2", "c"]


def test_nodes_of_services():
    declared = [*listed(a={}, b={"on": "jobs"}), {"name": "c", "on": "none"}]
    assert services.services_nodes(declared, GROUPS, ADDRESSES) == {"a": ["a1", "a2"], "b": ["a2"], "c": []}
    assert services.services_first(declared, GROUPS, ADDRESSES) == {"a": "a1", "b": "a2"}


# The environment of a service

ALL_PORTS = {"pgbouncer": 6432, "node_cache": 6379, "node_queue": 6380}


def environment(declared: list[dict], **more: Any) -> dict[str, str]:
    return services.service_environment(declared[0], declared, ALL_PORTS, KEY, "a1", **more)


def test_environment_of_a_bare_service():
    assert environment(listed(shop={})) == {"SERVICE_NAME": "shop", "NODE_NAME": "a1"}


def test_environment_of_a_service_with_everything():
    declared = listed(
        my_shop={
            "database": {},
            "cache": True,
            "queue": True,
            "needs": ["search-index"],
            "environment": {"A_FLAG": True, "A_NUMBER": 1.5, "A_TEXT": "x y"},
            "secrets": ["A"],
        },
        search_index={},
    )
    application, owner = password("postgresql/my_shop/app_a"), password("postgresql/my_shop/owner")
    redis = password("redis/my-shop")
    expected = {
        "SERVICE_NAME": "my-shop",
        "NODE_NAME": "a1",
        "DATABASE_URL": f"postgresql://my_shop_app_a:{application}@127.0.0.1:6432/my_shop",
        "DATABASE_READ_URL": f"postgresql://my_shop_app_a:{application}@127.0.0.1:6432/my_shop_read",
        "DATABASE_SESSION_URL": f"postgresql://my_shop_app_a:{application}@127.0.0.1:6432/my_shop_session",
        "REDIS_URL": f"redis://my-shop:{redis}@127.0.0.1:6379/0",
        "QUEUE_URL": f"redis://my-shop:{redis}@127.0.0.1:6380/0",
        "SEARCH_INDEX_URL": "http://127.0.0.1:8002",
        "A_FLAG": "true",
        "A_NUMBER": "1.5",
        "A_TEXT": "x y",
        "A": "s3cret",
    }
    assert environment(declared, secrets={"my-shop": {"A": "s3cret"}}) == expected
    assert environment(declared, secrets={"my-shop": {"A": "s3cret"}}, owner=True) == expected | {
        "DATABASE_URL": f"postgresql://my_shop_owner:{owner}@127.0.0.1:6432/my_shop_session",
        "DATABASE_READ_URL": f"postgresql://my_shop_owner:{owner}@127.0.0.1:6432/my_shop_read",
        "DATABASE_SESSION_URL": f"postgresql://my_shop_owner:{owner}@127.0.0.1:6432/my_shop_session",
    }


def test_an_environment_may_say_otherwise():
    """Of what Terrace does not give the service itself."""
    declared = listed(shop={"environment": {"REDIS_URL": "redis://elsewhere"}})
    assert environment(declared)["REDIS_URL"] == "redis://elsewhere"


def test_filters_are_offered_by_name():
    filters = services.FilterModule().filters()
    assert all(getattr(services, name) is function for name, function in filters.items())
    public = {n for n, f in vars(services).items() if callable(f) and n.islower() and f.__module__ == services.__name__}
    assert set(filters) == {name for name in public if not name.startswith("_")}


def test_checks_of_services_are_run_as_their_readers():
    declared = [
        {"name": "shop-api", "database": {"name": "shop_api", "check": " SELECT true "}},
        {"name": "stock", "database": {"name": "stock", "check": ""}},
        {"name": "front", "database": None},
    ]
    assert services.services_checks(declared) == [
        {"service": "shop-api", "database": "shop_api", "role": "shop_api_reader", "statement": "SELECT true"}
    ]
