"""What `make check` says of environments that cannot work: every line, word for word."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret

from landscape import ROOT, load, problems
from terrace.environment import Environment

QA = {
    "inventory/qa/hosts.yml": """\
all:
  children:
    loadbalancer:
      hosts:
        lb1: {ansible_host: 192.0.2.11}
    app:
      hosts:
        app1: {ansible_host: 192.0.2.21}
        app2: {ansible_host: 192.0.2.22}
    cache:
      hosts:
        cache1: {ansible_host: 192.0.2.31}
    sentinel:
      hosts:
        cache1:
    database:
      hosts:
        db1: {ansible_host: db1.example.com, address: 192.0.2.41}
    etcd:
      hosts:
        db1:
    backup:
      hosts:
        cache1:
""",
    "inventory/qa/group_vars/all/main.yml": """\
state: /nowhere
pki_authority_directory: "{{ state }}/pki"
pki_authority_name: QA
""",
    "inventory/qa/group_vars/all/services.yml": """\
services:
  shop: {workers: 2}
  users: {}
""",
    "inventory/qa/group_vars/all/vault.yml": """\
vault_key: s0vX3nLq8ZrTb1KdYp7WmJc5HgAe9UfR
vault_services: {shop: {TOKEN: 7f3a0b}}
""",
    "inventory/qa/group_vars/cache.yml": "cache_memory_mb: 64\nqueue_memory_mb: 64\n",
    "inventory/qa/group_vars/database.yml": "patroni_max_connections: 100\n",
    "services/shop.yml": """\
source: {path: shop}
app: shop.web:app
interface: asgi
port: 8001
routes: [{path: /shop}, {host: shop.example.com}]
health: {live: /live, ready: /ready}
needs: [users]
database: {migrate: alembic upgrade head, pool: 5}
environment: {LEVEL: info}
secrets: [TOKEN]
processes: {mailer: {command: python -m shop.mailer}}
schedule: {report: {command: python -m shop.report, at: daily}}
""",
    "services/users.yml": """\
source: {git: "https://git.example.com/users.git"}
version: v1.0.0
app: users:app
interface: wsgi
port: 8002
routes: [{path: /users, strip: true}]
cache: true
""",
}
HOSTS = "inventory/qa/hosts.yml"
MAIN = "inventory/qa/group_vars/all/main.yml"
SERVICES = "inventory/qa/group_vars/all/services.yml"
VAULT = "inventory/qa/group_vars/all/vault.yml"
CACHE = "inventory/qa/group_vars/cache.yml"
DATABASE = "inventory/qa/group_vars/database.yml"
APP = "inventory/qa/group_vars/app.yml"
SHOP = "services/shop.yml"
USERS = "services/users.yml"


@pytest.fixture
def qa(tmp_path, monkeypatch) -> Path:
    """A small environment with nothing wrong, in the current directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in QA.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "inventory/qa"


def change(name: str, old: str, new: str) -> None:
    """Replace a text in a file, which has to have it; where it is empty, add the new text at the end."""
    path = Path(name)
    text = path.read_text() if path.exists() else ""
    assert old in text, f"{name} has no {old!r}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(old, new, 1) if old else text + new)


def said(inventory: Path) -> list[str]:
    """Return the lines for an inventory with the secrets that its own files have."""
    return problems(inventory, vault_key=None, vault_services=None)


# What is changed in which file, from what to what; and the lines that follow from it.
CASES: list[tuple[str, str, str, list[str]]] = [
    # Static files
    (
        SHOP,
        "routes: [{path: /shop}, {host: shop.example.com}]",
        "routes: [{path: /shop}, {path: /buy}]\nstatic: {}",
        [
            "services/shop.yml: static.url: is '/static/', to which no route leads; put them below /shop or /buy, or add a route"
        ],
    ),
    (
        SHOP,
        "routes: [{path: /shop}, {host: shop.example.com}]",
        "static: {url: /shop/static/}",
        ["services/shop.yml: static.url: is '/shop/static/', to which no route leads; add a route"],
    ),
    (
        USERS,
        "cache: true",
        "static: {url: /users/static/}",
        [
            "services/users.yml: static.url: begins with /users, which routes[0] takes off; write what the service sees, /static/"
        ],
    ),
    (
        SHOP,
        "secrets:",
        "static: {url: /, directory: ../web}\nsecrets:",
        [
            "services/shop.yml: static.directory: is '../web'; has to be a directory of the source, such as static or web/dist",
            "services/shop.yml: static.url: is '/', which would leave no address to the service; give them a prefix, such as /static/",
        ],
    ),
    (
        SHOP,
        "secrets:",
        "static: {url: /static}\nsecrets:",
        [
            "services/shop.yml: static.url: is '/static'; has to begin and end with /, with letters, digits, ., _, ~ and - between, and no dot after a /"
        ],
    ),
    (
        SHOP,
        "secrets:",
        "static: {url: /static/.x/}\nsecrets:",
        [
            "services/shop.yml: static.url: is '/static/.x/'; has to begin and end with /, with letters, digits, ., _, ~ and - between, and no dot after a /"
        ],
    ),
    (
        SHOP,
        "health: {live: /live, ready: /ready}",
        "health: {live: /static/live}\nstatic: {}",
        [
            "services/shop.yml: health.live: is below static.url /static/, where no service answers; give it another path"
        ],
    ),
    (
        SHOP,
        "secrets:",
        "static: {command: 'npm run \"build'}\nsecrets:",
        ["services/shop.yml: static.command: has a quote that is not closed; close it"],
    ),
    (
        SHOP,
        "environment: {LEVEL: info}",
        "environment: {STATIC_ROOT: /tmp}\nstatic: {}",
        [
            "services/shop.yml: environment.STATIC_ROOT: Terrace sets STATIC_ROOT itself, for its static files; choose another name"
        ],
    ),
    # Databases, and their indexes
    (
        MAIN,
        "",
        "databases: {reports: {pol: 3}}\n",
        ["inventory/qa/group_vars/all/main.yml: databases.reports.pol: unknown key; did you mean 'pool'?"],
    ),
    (
        MAIN,
        "",
        "databases: {shop: {}}\n",
        [
            "inventory/qa/group_vars/all/main.yml: databases.shop: is the database of the service 'shop'; declare it there, or choose another name"
        ],
    ),
    (
        MAIN,
        "",
        "databases: {reports: {pool: 40, connections: 100}}\n",
        [
            "inventory/qa/group_vars/all/main.yml: databases.reports.connections: is 100, and the pools of all nodes come to 164; raise it to that at least, or lower the pool",
            "inventory/qa/group_vars/database.yml: patroni_max_connections: is 100, and the pools of all nodes come to 24 for shop + 164 for reports + 20 in reserve = 208; raise it to that, or lower database.pool of a service",
        ],
    ),
    (
        SHOP,
        "pool: 5",
        "pool: 5, connections: 20",
        [
            "services/shop.yml: database.connections: is 20, and the pools of all nodes come to 24; raise it to that at least, or lower the pool"
        ],
    ),
    (
        SHOP,
        "pool: 5",
        "pool: 5, indexes: {items: [{columns: [a, {expression: 'lower(b), c'}]}, {columns: []}]}",
        [
            "services/shop.yml: database.indexes.items[0].columns[1].expression: is more than one expression; give each as a column of its own",
            "services/shop.yml: database.indexes.items[1]: has neither a name nor columns; give columns",
        ],
    ),
    (
        SHOP,
        "pool: 5",
        "pool: 5, indexes: {items: [{columns: [a], metod: gin}]}",
        ["services/shop.yml: database.indexes.items[0].metod: unknown key; did you mean 'method'?"],
    ),
    # Variables that there are not
    (
        DATABASE,
        "patroni_max_connections",
        "patroni_max_conections",
        [
            "inventory/qa/group_vars/database.yml: patroni_max_conections: unknown variable; did you mean 'patroni_max_connections'?",
            "inventory/qa/group_vars/database.yml: patroni_max_connections: is missing; state at least 44, which the services' pools and a reserve come to",
        ],
    ),
    (
        DATABASE,
        "",
        "base_time_zone: UTC\n",
        ["inventory/qa/group_vars/database.yml: base_time_zone: unknown variable; did you mean 'base_timezone'?"],
    ),
    (
        CACHE,
        "",
        "redis_setings: {}\n",
        ["inventory/qa/group_vars/cache.yml: redis_setings: unknown variable; did you mean 'redis_settings'?"],
    ),
    (
        MAIN,
        "",
        "loadbalancer_engin: nginx\n",
        [
            "inventory/qa/group_vars/all/main.yml: loadbalancer_engin: unknown variable; did you mean 'loadbalancer_engine'?"
        ],
    ),
    (
        MAIN,
        "",
        "xyzzy: 1\n",
        [
            "inventory/qa/group_vars/all/main.yml: xyzzy: unknown variable; remove it, or use it in another variable's value"
        ],
    ),
    (
        HOSTS,
        "192.0.2.21}",
        "192.0.2.21, adress: 192.0.2.99}",
        ["inventory/qa/hosts.yml: app1.adress: unknown variable; did you mean 'address'?"],
    ),
    (
        HOSTS,
        "    cache:\n      hosts",
        "    cache:\n      vars: {redis_comands: x}\n      hosts",
        ["inventory/qa/hosts.yml: cache.vars.redis_comands: unknown variable; did you mean 'redis_commands'?"],
    ),
    (
        "inventory/qa/host_vars/db1.yml",
        "",
        "patroni_memory: 4096\n",
        ["inventory/qa/host_vars/db1.yml: patroni_memory: unknown variable; did you mean 'patroni_memory_mb'?"],
    ),
    (
        HOSTS,
        "    app:\n      hosts:",
        "    app:\n      host:",
        [
            "inventory/qa/hosts.yml: app.host: unknown key; did you mean 'hosts'?",
            "inventory/qa/hosts.yml: the group 'app' has no host; add one, it may be a host of another group",
        ],
    ),
    # Who asks the load balancers for others
    (
        MAIN,
        "",
        "trusted_proxies: [192.0.2.7, cdn.example.com, 192.0.2.9/24, 0.0.0.0/0, '2001:db8::/32']\n",
        [
            "inventory/qa/group_vars/all/main.yml: trusted_proxies[1]: is 'cdn.example.com'; has to be an IP address or a network such as 198.51.100.0/24; names are not looked up",
            "inventory/qa/group_vars/all/main.yml: trusted_proxies[2]: is '192.0.2.9/24'; has to be an IP address or a network such as 198.51.100.0/24; write the network's first address",
            "inventory/qa/group_vars/all/main.yml: trusted_proxies[3]: is 0.0.0.0/0, which is everybody, who could all say to be anybody; name the proxies",
        ],
    ),
    (
        MAIN,
        "",
        "origin_closed: true\n",
        [
            "inventory/qa/group_vars/all/main.yml: origin_closed: is true, and nobody is trusted, so nobody would be answered; give trusted_proxies"
        ],
    ),
    # Limits
    (
        USERS,
        "routes: [",
        "limits: [{path: login, requests: 5}, {path: /x%2f, requests: 5}, {path: /users/../x, requests: 5}]\nroutes: [",
        [
            f"services/users.yml: limits[{number}].path: is '{path}'; has to start with /, with letters, digits and ._~@:+- between slashes"
            for number, path in enumerate(["login", "/x%2f", "/users/../x"])
        ],
    ),
    (
        USERS,
        "routes: [",
        "limits: [{path: /login, requests: 5}, {requests: 0, seconds: 90000, methods: [post]}]\nroutes: [",
        [
            "services/users.yml: limits[0].path: is '/login'; no route of the service leads there; give the path as clients ask for it",
            "services/users.yml: limits[1].requests: is 0; has to be between 1 and 1000000",
            "services/users.yml: limits[1].seconds: is 90000; has to be between 1 and 86400",
            "services/users.yml: limits[1].methods: 'post' is no method; write it in capitals, such as POST",
        ],
    ),
    (
        USERS,
        "routes: [{path: /users, strip: true}]",
        "limits: [{requests: 5}]",
        [
            "services/users.yml: limits: the service has no route, so no load balancer counts its requests; add one, or take them out"
        ],
    ),
    (
        USERS,
        "routes: [",
        f"limits: [{', '.join(['{requests: 5}'] * 9)}]\nroutes: [",
        ["services/users.yml: limits: has 9; give at most 8, since a request may meet each of them"],
    ),
    # The address that load balancers hold in turn
    (
        MAIN,
        "",
        "loadbalancer_virtual_address: 192.0.2.10/24\n",
        [
            "inventory/qa/group_vars/all/main.yml: loadbalancer_virtual_address: is '192.0.2.10/24'; has to be an IPv4 address, without port or network"
        ],
    ),
    (
        MAIN,
        "",
        "loadbalancer_virtual_address: 192.0.2.31\n",
        [
            "inventory/qa/group_vars/all/main.yml: loadbalancer_virtual_address: is 192.0.2.31, the address of 'cache1'; give a free address of the balancers' network"
        ],
    ),
    (
        MAIN,
        "",
        "loadbalancer_virtual_address: 127.0.0.2\n",
        [
            "inventory/qa/group_vars/all/main.yml: loadbalancer_virtual_address: is 127.0.0.2, which no host can have for others; give a free address of the balancers' network"
        ],
    ),
    (
        "inventory/qa/group_vars/loadbalancer.yml",
        "",
        "loadbalancer_virtual_address: 192.0.2.10\n",
        [
            "inventory/qa/group_vars/loadbalancer.yml: loadbalancer_virtual_address: has to be the same for every host; move it to group_vars/all"
        ],
    ),
    (
        "inventory/qa/host_vars/lb1.yml",
        "",
        "address: lb1.example.com\nloadbalancer_virtual_address: 192.0.2.10\n",
        [
            "inventory/qa/host_vars/lb1.yml: loadbalancer_virtual_address: has to be the same for every host; move it to group_vars/all",
            "inventory/qa/host_vars/lb1.yml: loadbalancer_virtual_address: cannot be held by 'lb1', whose own address is no IPv4 address; give it one in hosts.yml",
        ],
    ),
    # Variables where they do nothing
    (
        MAIN,
        "",
        "redis_address: 192.0.2.31\n",
        [
            "inventory/qa/group_vars/all/main.yml: redis_address: is set by playbooks/group_vars/all/wiring.yml, which wins over group 'all'; move it to group_vars/cache.yml"
        ],
    ),
    (
        MAIN,
        "",
        "pki_days: 30\npki_name: x\n",
        [
            "inventory/qa/group_vars/all/main.yml: pki_name: is set by playbooks/group_vars/all/wiring.yml, which wins over group 'all'; move it to group_vars/<group>.yml"
        ],
    ),
    (
        MAIN,
        "",
        "topology_ports: {http: 8080}\n",
        [
            "inventory/qa/group_vars/all/main.yml: topology_ports: is derived from the inventory and cannot be set; remove it"
        ],
    ),
    (
        DATABASE,
        "",
        "topology_adress: x\n",
        [
            "inventory/qa/group_vars/database.yml: topology_adress: is derived from the inventory and cannot be set; remove it"
        ],
    ),
    (
        HOSTS,
        "all:\n",
        "all:\n  vars: {haproxy_lb_https_port: 8443}\n",
        [
            "inventory/qa/hosts.yml: all.vars.haproxy_lb_https_port: is set by playbooks/group_vars/all/wiring.yml, which wins over 'vars:' in hosts.yml; move it to group_vars/loadbalancer.yml"
        ],
    ),
    (
        HOSTS,
        "    database:\n      hosts",
        "    database:\n      vars: {patroni_port: 5433}\n      hosts",
        [
            "inventory/qa/hosts.yml: database.vars.patroni_port: is set by playbooks/group_vars/all/wiring.yml, which wins over 'vars:' in hosts.yml; move it to group_vars/database.yml"
        ],
    ),
    (
        APP,
        "",
        "patroni_memory_mb: 2048\n",
        [
            "inventory/qa/group_vars/app.yml: patroni_memory_mb: the role patroni reads it on no host of 'app'; move it to group_vars/database.yml"
        ],
    ),
    (
        APP,
        "",
        "haproxy_lb_plain: true\n",
        [
            "inventory/qa/group_vars/app.yml: haproxy_lb_plain: the role haproxy reads it on no host of 'app'; move it to group_vars/loadbalancer.yml"
        ],
    ),
    (
        HOSTS,
        "192.0.2.11}",
        "192.0.2.11, pgbouncer_settings: {}}",
        [
            "inventory/qa/hosts.yml: lb1.pgbouncer_settings: the role pgbouncer does not read it on the host 'lb1'; move it to group_vars/app.yml"
        ],
    ),
    (
        APP,
        "",
        "cache_memory_mb: 64\n",
        [
            "inventory/qa/group_vars/app.yml: cache_memory_mb: no host of 'app' is in 'cache'; move it to group_vars/cache.yml"
        ],
    ),
    (
        APP,
        "",
        "services: {shop: {workers: 3}}\n",
        ["inventory/qa/group_vars/app.yml: services: has to be the same for every host; move it to group_vars/all"],
    ),
    (
        MAIN,
        "",
        "address: 192.0.2.1\n",
        [
            "inventory/qa/group_vars/all/main.yml: address: is of one host; move it to that host in hosts.yml",
            "inventory/qa/hosts.yml: 'app1' has the address 192.0.2.1 of 'lb1'; each needs its own",
            "inventory/qa/hosts.yml: 'app2' has the address 192.0.2.1 of 'lb1'; each needs its own",
            "inventory/qa/hosts.yml: 'cache1' has the address 192.0.2.1 of 'lb1'; each needs its own",
        ],
    ),
    (
        SERVICES,
        "",
        "pki_authority_name: QA too\n",
        [
            "inventory/qa/group_vars/all/services.yml: pki_authority_name: is also set in inventory/qa/group_vars/all/main.yml; keep one"
        ],
    ),
    (
        HOSTS,
        "    app:\n",
        "    app:\n      vars: {pki_authority_name: App}\n",
        [
            "inventory/qa/hosts.yml: app.vars.pki_authority_name: is also set in inventory/qa/group_vars/all/main.yml, which wins; remove it, or move it to group_vars/app.yml"
        ],
    ),
    (
        "inventory/qa/group_vars/databse.yml",
        "",
        "patroni_memory_mb: 1\n",
        ["inventory/qa/group_vars/databse.yml: there is no group 'databse' in the inventory; did you mean 'database'?"],
    ),
    (
        "inventory/qa/group_vars/copies.yml",
        "",
        "base_timezone: UTC\n",
        [
            "inventory/qa/group_vars/copies.yml: there is no group 'copies' in the inventory; rename it, or add that to hosts.yml"
        ],
    ),
    (
        "inventory/qa/host_vars/app3.yml",
        "",
        "base_timezone: UTC\n",
        ["inventory/qa/host_vars/app3.yml: there is no host 'app3' in the inventory; did you mean 'app2'?"],
    ),
    (
        "inventory/qa/group_vars/database.yaml",
        "",
        "patroni_memory_mb: 1\n",
        [
            "inventory/qa/group_vars/database.yaml: is not read, since there is inventory/qa/group_vars/database.yml; move it in there"
        ],
    ),
    (
        "inventory/qa/group_vars/app.txt",
        "",
        "base_timezone: UTC\n",
        [
            "inventory/qa/group_vars/app.txt: is not read; Ansible reads .yml, .yaml and .json; rename it, or take it away"
        ],
    ),
    # Values that do not fit
    (
        DATABASE,
        "100",
        '"100"',
        ["inventory/qa/group_vars/database.yml: patroni_max_connections: is '100'; has to be a whole number"],
    ),
    (
        DATABASE,
        "100",
        "2.5",
        ["inventory/qa/group_vars/database.yml: patroni_max_connections: is 2.5; has to be a whole number"],
    ),
    (
        DATABASE,
        "100",
        "",
        ["inventory/qa/group_vars/database.yml: patroni_max_connections: has no value; give one, or remove it"],
    ),
    (
        "inventory/qa/hosts.yml",
        "    backup:\n",
        "    edge:\n      hosts:\n        edge1: {ansible_host: 192.0.2.61, edge_origins: [lb1.example.com]}\n    backup:\n",
        [
            "inventory/qa/hosts.yml: edge1.edge_origins: has 'lb1.example.com'; has to be IP addresses, without port or network"
        ],
    ),
    (
        "inventory/qa/hosts.yml",
        "    backup:\n",
        "    edge:\n      hosts:\n        lb1:\n    backup:\n",
        [
            "inventory/qa/hosts.yml: the host 'lb1' is in 'edge' and in 'loadbalancer', which both answer clients on the same ports; the edge stands before the load balancers; take it out of one"
        ],
    ),
    (
        "services/shop.yml",
        "routes:",
        "cached: [{path: /news, seconds: 5, vary: [Cookie]}]\nroutes:",
        [
            "services/shop.yml: cached[0].vary: has Cookie, which makes an answer of one visitor; name the cookies that matter in bypass.cookies"
        ],
    ),
    (
        MAIN,
        "",
        "loadbalancer_engine: apache\n",
        ["inventory/qa/group_vars/all/main.yml: loadbalancer_engine: is 'apache'; has to be one of haproxy, nginx"],
    ),
    (
        CACHE,
        "cache_memory_mb: 64",
        "cache_memory_mb: 64M",
        ["inventory/qa/group_vars/cache.yml: cache_memory_mb: is '64M'; has to be a whole number"],
    ),
    (
        MAIN,
        "",
        "base_sysctl: [vm.swappiness=1]\n",
        ["inventory/qa/group_vars/all/main.yml: base_sysctl: is ['vm.swappiness=1']; has to be a mapping"],
    ),
    (
        MAIN,
        "",
        "base_locales: de_DE.UTF-8\n",
        ["inventory/qa/group_vars/all/main.yml: base_locales: is 'de_DE.UTF-8'; has to be a list of text"],
    ),
    (
        "inventory/qa/group_vars/loadbalancer.yml",
        "",
        "haproxy_lb_plain: maybe\n",
        ["inventory/qa/group_vars/loadbalancer.yml: haproxy_lb_plain: is 'maybe'; has to be true or false"],
    ),
    (
        "inventory/qa/group_vars/app.yml",
        "",
        "haproxy_node_peer_limit: 20\n",
        ["inventory/qa/group_vars/app.yml: haproxy_node_peer_limit: is 20; has to be one of 0, 1, 2, 3, 4, 5, 6, 7, 8"],
    ),
    (
        "inventory/qa/group_vars/loadbalancer.yml",
        "",
        "haproxy_lb_limits: {conections: 5, requests: many}\n",
        [
            "inventory/qa/group_vars/loadbalancer.yml: haproxy_lb_limits.conections: unknown key; did you mean 'connections'?",
            "inventory/qa/group_vars/loadbalancer.yml: haproxy_lb_limits.requests: is 'many'; has to be a whole number",
        ],
    ),
    (
        MAIN,
        "QA",
        '"{{ nowhere }}"',
        [
            "inventory/qa/group_vars/all/main.yml: pki_authority_name: cannot be evaluated ('nowhere' is undefined); mend the template"
        ],
    ),
    (
        MAIN,
        "pki_authority_name: QA\n",
        "",
        [
            "inventory/qa/group_vars/all/main.yml: pki_authority_name: is missing; set it: the name of the authority, by which people know it in a certificate"
        ],
    ),
    (
        DATABASE,
        "patroni_max_connections: 100\n",
        "",
        [
            "inventory/qa/group_vars/database.yml: patroni_max_connections: is missing; state at least 44, which the services' pools and a reserve come to"
        ],
    ),
    (
        DATABASE,
        "100",
        "43",
        [
            "inventory/qa/group_vars/database.yml: patroni_max_connections: is 43, and the pools of all nodes come to 24 for shop + 20 in reserve = 44; raise it to that, or lower database.pool of a service"
        ],
    ),
    # Files
    (
        DATABASE,
        "",
        "patroni_max_connections: 200\n",
        ["inventory/qa/group_vars/database.yml:2: the key 'patroni_max_connections' is given twice; keep one"],
    ),
    (
        SERVICES,
        "users: {}",
        "users: {workers: 2, workers: 3}",
        ["inventory/qa/group_vars/all/services.yml:3: the key 'workers' is given twice; keep one"],
    ),
    (
        HOSTS,
        "    etcd:",
        "    cache:\n      hosts:\n    etcd:",
        [
            "inventory/qa/hosts.yml:19: the key 'cache' is given twice; keep one",
            "inventory/qa/hosts.yml: the group 'cache' has no host; add one, it may be a host of another group",
        ],
    ),
    (
        MAIN,
        "",
        "state: {{ nowhere }}\n",
        [
            'inventory/qa/group_vars/all/main.yml:4: is no valid YAML (found unhashable key); put a template in quotes: "{{ ... }}"'
        ],
    ),
    (
        DATABASE,
        "100",
        "[100",
        [
            "inventory/qa/group_vars/database.yml:2: is no valid YAML (did not find expected ',' or ']'); close every bracket and quote, and indent keys of one mapping alike"
        ],
    ),
    (
        CACHE,
        "cache_memory_mb: 64",
        "cache_memory_mb: 64: 65",
        [
            "inventory/qa/group_vars/cache.yml:1: is no valid YAML (mapping values are not allowed in this context); put text that has a colon in quotes, and indent keys of one mapping alike"
        ],
    ),
    (
        HOSTS,
        "    app:\n",
        "    app:\n\t",
        [
            "inventory/qa/hosts.yml:7: is no valid YAML (found character that cannot start any token); indent with spaces, and put text that begins with a special character in quotes"
        ],
    ),
    (
        MAIN,
        'state: /nowhere\npki_authority_directory: "{{ state }}/pki"\npki_authority_name: QA\n',
        "- state\n",
        ["inventory/qa/group_vars/all/main.yml: has to be a mapping, with variables or groups as its keys"],
    ),
    (
        HOSTS,
        "      hosts:\n        lb1: {ansible_host: 192.0.2.11}",
        "      hosts: [lb1]",
        ["inventory/qa/hosts.yml: loadbalancer.hosts: has to be a mapping, each name with a colon behind it"],
    ),
    (SHOP, "port: 8001", "port: 8001\nport: 8003", ["services/shop.yml:5: the key 'port' is given twice; keep one"]),
    (
        SHOP,
        "port: 8001",
        "port: [8001",
        [
            "services/shop.yml:5: is no valid YAML (did not find expected ',' or ']'); close every bracket and quote, and indent keys of one mapping alike"
        ],
    ),
    (
        USERS,
        "cache: true",
        "*cache: true",
        [
            "services/users.yml:7: is no valid YAML (found undefined alias); name an anchor that stands above, or put text that begins with * in quotes"
        ],
    ),
    # Secrets
    (
        VAULT,
        "s0vX3nLq8ZrTb1KdYp7WmJc5HgAe9UfR",
        "s0vX3nLq",
        ["inventory/qa/group_vars/all/vault.yml: vault_key: has 8 characters; make one of at least 32, at random"],
    ),
    (
        VAULT,
        "vault_key: s0vX3nLq8ZrTb1KdYp7WmJc5HgAe9UfR\n",
        "",
        [
            "inventory/qa/group_vars/all/vault.yml: vault_key: is missing; set it: the secret of at least 32 characters from which every password between daemons is derived"
        ],
    ),
    (
        VAULT,
        "s0vX3nLq8ZrTb1KdYp7WmJc5HgAe9UfR",
        "CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE_ME",
        ["inventory/qa/group_vars/all/vault.yml: vault_key: is a placeholder; make one at random"],
    ),
    (
        VAULT,
        "s0vX3nLq8ZrTb1KdYp7WmJc5HgAe9UfR",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ["inventory/qa/group_vars/all/vault.yml: vault_key: is a placeholder; make one at random"],
    ),
    (
        VAULT,
        "s0vX3nLq8ZrTb1KdYp7WmJc5HgAe9UfR",
        "12345678901234567890123456789012",
        ["inventory/qa/group_vars/all/vault.yml: vault_key: has to be text; put it in quotes"],
    ),
    (
        VAULT,
        "7f3a0b",
        "changeme",
        ["inventory/qa/group_vars/all/vault.yml: vault_services.shop.TOKEN: is a placeholder; put the secret there"],
    ),
    (
        VAULT,
        "7f3a0b",
        "password",
        ["inventory/qa/group_vars/all/vault.yml: vault_services.shop.TOKEN: is a placeholder; put the secret there"],
    ),
    (
        VAULT,
        "7f3a0b",
        "your-secret-here",
        ["inventory/qa/group_vars/all/vault.yml: vault_services.shop.TOKEN: is a placeholder; put the secret there"],
    ),
    (
        VAULT,
        "7f3a0b",
        "xxxxxxxxxx",
        ["inventory/qa/group_vars/all/vault.yml: vault_services.shop.TOKEN: is a placeholder; put the secret there"],
    ),
    (VAULT, "7f3a0b", "[7f3a0b]", ["inventory/qa/group_vars/all/vault.yml: vault_services.shop.TOKEN: has to be text"]),
    (VAULT, "TOKEN", "TOKN", ["services/shop.yml: secrets: TOKEN is not in the vault; add vault_services.shop.TOKEN"]),
    (
        VAULT,
        "{TOKEN: 7f3a0b}",
        "7f3a0b",
        [
            "inventory/qa/group_vars/all/vault.yml: vault_services.shop: has to be a mapping of the service's secrets by name"
        ],
    ),
    (
        VAULT,
        "{shop: {TOKEN: 7f3a0b}}",
        "[7f3a0b]",
        [
            "inventory/qa/group_vars/all/vault.yml: vault_services: has to be a mapping",
            "services/shop.yml: secrets: TOKEN is not in the vault; add vault_services.shop.TOKEN",
        ],
    ),
    # Services
    (
        SERVICES,
        "users: {}",
        "users: {}\n  user: {}",
        [
            "inventory/qa/group_vars/all/services.yml: services.user: there is no services/user.yml; did you mean 'users'?"
        ],
    ),
    (
        SERVICES,
        "users: {}",
        "users: {}\n  billing: {}",
        [
            "inventory/qa/group_vars/all/services.yml: services.billing: there is no services/billing.yml; write it, or name one of shop, users"
        ],
    ),
    (
        SERVICES,
        "users: {}",
        "users: v1.4.0",
        [
            "inventory/qa/group_vars/all/services.yml: services.users: is 'v1.4.0'; has to be a mapping of what differs here"
        ],
    ),
    (
        SERVICES,
        "  shop: {workers: 2}\n  users: {}",
        "  [shop, users]",
        ["inventory/qa/group_vars/all/services.yml: services: has to be a mapping, with each service's name as a key"],
    ),
    (
        SERVICES,
        "workers: 2",
        "wokers: 2",
        ["inventory/qa/group_vars/all/services.yml: services.shop.wokers: unknown key; did you mean 'workers'?"],
    ),
    (
        SERVICES,
        "workers: 2",
        "workers: 0",
        ["inventory/qa/group_vars/all/services.yml: services.shop.workers: is 0; has to be 1 or more"],
    ),
    (
        SERVICES,
        "workers: 2",
        "health: {live: live}",
        [
            "inventory/qa/group_vars/all/services.yml: services.shop.health.live: is 'live'; has to be a path, starting with /"
        ],
    ),
    (SHOP, "ready: /ready", "redy: /ready", ["services/shop.yml: health.redy: unknown key; did you mean 'ready'?"]),
    (SHOP, "port: 8001", 'port: "8001"', ["services/shop.yml: port: is '8001'; has to be a whole number"]),
    (
        SHOP,
        "port: 8001",
        "port: 8002",
        ["services/users.yml: port: 8002 is taken by the service 'shop'; choose another"],
    ),
    (
        SHOP,
        "port: 8001",
        "port: 6432",
        ["services/shop.yml: port: 6432 is taken by the stack's 'pgbouncer'; choose another"],
    ),
    (SHOP, "port: 8001", "port: 80", ["services/shop.yml: port: is 80; has to be between 1024 and 65535"]),
    (SHOP, "port: 8001\n", "", ["services/shop.yml: port: is missing; give a whole number"]),
    (USERS, "wsgi", "http", ["services/users.yml: interface: is 'http'; has to be one of asgi, wsgi"]),
    (USERS, "v1.0.0", "1.10", ["services/users.yml: version: is 1.1; has to be text; put it in quotes"]),
    (
        USERS,
        "version: v1.0.0\n",
        "",
        ["services/users.yml: version: is missing; a source of git needs a tag, branch or commit"],
    ),
    (
        USERS,
        '{git: "https://git.example.com/users.git"}',
        "{pypi: users==1.0}",
        [
            "services/users.yml: source.pypi: is 'users==1.0'; has to be a package's name alone, its version goes into version"
        ],
    ),
    (
        USERS,
        'git: "https://git.example.com/users.git"',
        "git: git.example.com/users",
        [
            "services/users.yml: source.git: is 'git.example.com/users'; has to be https://..., ssh://..., user@host:path or a path from /"
        ],
    ),
    (
        USERS,
        "https://git",
        "https://me:hunter2@git",
        ["services/users.yml: source.git: has a password; take it out, and let git ask a credential helper or use SSH"],
    ),
    (USERS, "/users,", "/shop/,", ["services/users.yml: routes[0]: the same route belongs to 'shop'; remove one"]),
    (
        USERS,
        "{path: /users, strip: true}",
        "{host: Shop.Example.com}",
        ["services/users.yml: routes[0]: the same route belongs to 'shop'; remove one"],
    ),
    (
        USERS,
        "{path: /users, strip: true}",
        "{path: /users, strip: true}, {path: /users/new}",
        [
            "services/users.yml: routes[1]: lies within routes[0] and hides a part of it, since one of them strips its prefix; let both keep theirs, or give it another path"
        ],
    ),
    (
        USERS,
        "/users,",
        "/u%73ers,",
        ["services/users.yml: routes[0].path: is '/u%73ers'; write the character itself instead of its % code"],
    ),
    (
        USERS,
        "/users,",
        "//users,",
        [
            "services/users.yml: routes[0].path: is '//users'; no request has a path with //, /. or /.. in it, so take that out"
        ],
    ),
    (
        USERS,
        "/users,",
        "/users/../admin,",
        [
            "services/users.yml: routes[0].path: is '/users/../admin'; no request has a path with //, /. or /.. in it, so take that out"
        ],
    ),
    (
        USERS,
        "/users,",
        "/users?new,",
        ["services/users.yml: routes[0].path: is '/users?new'; cannot contain spaces, # or ?"],
    ),
    (
        USERS,
        "path: /users,",
        "host: users.example.com:443,",
        [
            "services/users.yml: routes[0].host: is 'users.example.com:443'; has to be a host name alone, without port or path"
        ],
    ),
    (
        SHOP,
        "needs: [users]",
        "needs: [user]",
        ["services/shop.yml: needs: there is no service 'user' here; did you mean 'users'?"],
    ),
    (SHOP, "needs: [users]", "needs: [shop]", ["services/shop.yml: needs: 'shop' needs itself; take it out"]),
    (
        USERS,
        "cache: true",
        "needs: [shop]",
        ["services/shop.yml: needs: go in a circle, shop -> users -> shop, of which none can be first; take one out"],
    ),
    (SHOP, "TOKEN]", "TOKEN, TOKEN]", ["services/shop.yml: secrets: TOKEN is there twice; keep one"]),
    (SHOP, "LEVEL: info", "TOKEN: x", ["services/shop.yml: environment.TOKEN: is also among secrets; keep one"]),
    (
        SHOP,
        "LEVEL: info",
        "DATABASE_URL: x",
        [
            "services/shop.yml: environment.DATABASE_URL: Terrace sets DATABASE_URL itself, for its database; choose another name"
        ],
    ),
    (
        SHOP,
        "LEVEL: info",
        "USERS_URL: x",
        [
            "services/shop.yml: environment.USERS_URL: Terrace sets USERS_URL itself, for the need 'users'; choose another name"
        ],
    ),
    (
        SHOP,
        "LEVEL: info",
        "SERVICE_NAME: x",
        [
            "services/shop.yml: environment.SERVICE_NAME: Terrace sets SERVICE_NAME itself, for every service; choose another name"
        ],
    ),
    (
        SHOP,
        "{command: python -m shop.mailer}",
        '{command: "python -m shop.mailer\\nrm x"}',
        ["services/shop.yml: processes.mailer.command: has more than one line; give one program and its arguments"],
    ),
    (
        SHOP,
        "python -m shop.mailer",
        '" "',
        ["services/shop.yml: processes.mailer.command: is empty; give a program and its arguments"],
    ),
    (
        SHOP,
        "alembic upgrade head",
        '"alembic \'upgrade head"',
        ["services/shop.yml: database.migrate: has a quote that is not closed; close it"],
    ),
    (
        SHOP,
        "at: daily",
        "at: 0 4 * * *",
        [
            "services/shop.yml: schedule.report.at: is '0 4 * * *'; has to be a time of systemd's OnCalendar, such as daily or *-*-* 04:00:00"
        ],
    ),
    (
        SHOP,
        "at: daily",
        "at: every day",
        [
            "services/shop.yml: schedule.report.at: is 'every day'; has to be a time of systemd's OnCalendar, such as daily or *-*-* 04:00:00"
        ],
    ),
    (
        SHOP,
        "/shop}",
        "/shop, stripp: true}",
        ["services/shop.yml: routes[0].stripp: unknown key; did you mean 'strip'?"],
    ),
    (
        SERVICES,
        "workers: 2",
        "on: batch",
        [
            "inventory/qa/group_vars/all/services.yml: services.shop.on: there is no group 'batch' in the inventory; add it to hosts.yml"
        ],
    ),
    (
        SERVICES,
        "workers: 2",
        "on: database",
        [
            "inventory/qa/group_vars/all/services.yml: services.shop.on: the group 'database' has hosts that are not in 'app': db1; services run on app hosts"
        ],
    ),
    # Hosts and groups
    (
        HOSTS,
        "    etcd:\n      hosts:\n        db1:\n",
        "    etcd:\n      hosts:\n        db1:\n        cache1:\n",
        ["inventory/qa/hosts.yml: the group 'etcd' has 2 hosts, which cannot outvote each other; use 1, 3 or 5"],
    ),
    (
        HOSTS,
        "    sentinel:\n      hosts:\n        cache1:\n",
        "    sentinel:\n",
        ["inventory/qa/hosts.yml: the group 'sentinel' has no host; add one, it may be a host of another group"],
    ),
    (
        HOSTS,
        "    etcd:\n      hosts:\n",
        "    etcd:\n      hosts:\n        e0: {ansible_host: 192.0.2.100}\n        e1: {ansible_host: 192.0.2.101}\n        e2: {ansible_host: 192.0.2.102}\n        e3: {ansible_host: 192.0.2.103}\n        e4: {ansible_host: 192.0.2.104}\n        e5: {ansible_host: 192.0.2.105}\n        e6: {ansible_host: 192.0.2.106}\n        e7: {ansible_host: 192.0.2.107}\n",
        ["inventory/qa/hosts.yml: the group 'etcd' has 9 hosts, which is too many to agree quickly; use 3 or 5"],
    ),
    (
        HOSTS,
        "    etcd:\n",
        "    spare:\n      hosts:\n        old1: {ansible_host: 192.0.2.99}\n    etcd:\n",
        [
            "inventory/qa/hosts.yml: the host 'old1' is in none of the groups loadbalancer, app, cache, sentinel, database, etcd, backup, edge; put it in one"
        ],
    ),
    (
        HOSTS,
        "    database:",
        "    databases:",
        ["inventory/qa/hosts.yml: the group 'databases' is none of Terrace's; did you mean 'database'?"],
    ),
    (
        HOSTS,
        "192.0.2.22",
        "192.0.2.21",
        ["inventory/qa/hosts.yml: 'app2' has the address 192.0.2.21 of 'app1'; each needs its own"],
    ),
    (
        HOSTS,
        "192.0.2.22",
        "192.0.2.256",
        [
            "inventory/qa/hosts.yml: 'app2' has the address 192.0.2.256, which is neither an IP address nor a host name; give it without port or network"
        ],
    ),
    (
        HOSTS,
        "192.0.2.22",
        '"192.0.2.22:22"',
        [
            "inventory/qa/hosts.yml: 'app2' has the address 192.0.2.22:22, which is neither an IP address nor a host name; give it without port or network"
        ],
    ),
    (
        HOSTS,
        "192.0.2.22",
        "0.0.0.0",
        [
            "inventory/qa/hosts.yml: 'app2' has the address 0.0.0.0, which no host can have; give the one that others reach it at"
        ],
    ),
    (
        HOSTS,
        "192.0.2.22",
        "127.0.0.1",
        [
            "inventory/qa/hosts.yml: 'app2' has the address 127.0.0.1, which only the host itself reaches; give the one that others reach it at"
        ],
    ),
    (
        HOSTS,
        "192.0.2.22",
        "app_2.example.com",
        [
            "inventory/qa/hosts.yml: 'app2' has the address app_2.example.com, which is neither an IP address nor a host name; give it without port or network"
        ],
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "lines"), CASES, ids=[f"{case[0]}: {case[2]}"[:60] for case in CASES])
def test_what_is_said(qa, file, old, new, lines):
    change(file, old, new)
    assert said(qa) == lines


def test_there_are_many_cases():
    assert len({str(case[:3]) for case in CASES if case[3]}) == len(CASES) > 60


def test_static_files_that_another_service_takes(qa):
    change(SHOP, "secrets:", "static: {}\nsecrets:")
    assert said(qa) == []
    change(USERS, "{path: /users, strip: true}", "{path: /users, strip: true}, {path: /static}")
    assert said(qa) == []
    change(
        USERS, "{path: /static}", "{host: shop.example.com, path: /static}, {host: Shop.example.com, path: /static/a}"
    )
    assert said(qa) == [
        f"services/shop.yml: static.url: routes[{number}] of 'users' ({path}) takes addresses below /static/; change one of them"
        for number, path in ((1, "/static"), (2, "/static/a"))
    ]


def test_nothing_wrong(qa):
    assert said(qa) == []
    change(MAIN, "", "loadbalancer_virtual_address: 192.0.2.10\n")
    assert said(qa) == []


@pytest.mark.parametrize("name", ["single", "ha"])
def test_nothing_wrong_with_what_other_tests_use(name):
    assert problems(ROOT / "tests/hostless/data/inventory" / name) == []


def test_nothing_wrong_with_the_lab(tmp_path):
    extra = {"lab_state": str(tmp_path), "vault_key": None, "vault_services": None}
    assert problems(ROOT / "inventory/lab", **extra) == []


def test_everything_at_once(qa):
    change(DATABASE, "patroni_max_connections", "patroni_max_conections")
    change(SERVICES, "workers: 2", "wokers: 2")
    change(USERS, "8002", "80")
    change(SHOP, "ready: /ready", "ready: ready, liev: x")
    change(SHOP, "needs: [users]", "memory: lots\nneeds: [users]")
    change(HOSTS, "192.0.2.22", "192.0.2.21")
    change(VAULT, "7f3a0b", "CHANGE_ME")
    assert said(qa) == [
        f"{DATABASE}: patroni_max_conections: unknown variable; did you mean 'patroni_max_connections'?",
        f"{HOSTS}: 'app2' has the address 192.0.2.21 of 'app1'; each needs its own",
        f"{VAULT}: vault_services.shop.TOKEN: is a placeholder; put the secret there",
        f"{SERVICES}: services.shop.wokers: unknown key; did you mean 'workers'?",
        f"{SHOP}: health.liev: unknown key; did you mean 'live'?",
        f"{SHOP}: memory: is 'lots'; has to be a size such as 512M",
        f"{USERS}: port: is 80; has to be between 1024 and 65535",
        f"{DATABASE}: patroni_max_connections: is missing; state at least 20, which the services' pools and a reserve"
        " come to",
    ]


def test_files_that_cannot_be_read_are_told_together(qa):
    change(DATABASE, "100", "[100")
    change(MAIN, "", "state: {{ nowhere }}\n")
    change(CACHE, "", "cache_memory_mb: 32\n")
    change(SHOP, "8001", "{8001")
    mend = "close every bracket and quote, and indent keys of one mapping alike"
    assert said(qa) == [
        f'{MAIN}:4: is no valid YAML (found unhashable key); put a template in quotes: "{{{{ ... }}}}"',
        f"{CACHE}:3: the key 'cache_memory_mb' is given twice; keep one",
        f"{DATABASE}:2: is no valid YAML (did not find expected ',' or ']'); {mend}",
        f"{SHOP}:5: is no valid YAML (did not find expected ',' or '}}'); {mend}",
    ]


@pytest.mark.parametrize("setting", ["ansible_user: admin", "state_of: '{{ state }}'\nstate: '{{ state_of }}'"])
def test_variables_that_may_be_set(qa, setting):
    """Those of Ansible, and those that another one refers to."""
    Path(MAIN).write_text(QA[MAIN].removeprefix("state: /nowhere\n") + f"state: /x\n{setting.split(chr(10))[0]}\n")
    change(MAIN, "QA", "QA {{ state_of | default('') }}")
    assert said(qa) == []


@pytest.mark.parametrize(
    ("group", "setting"),
    [("app", "pki_days: 30"), ("app", "redis_users: []"), ("cache", "redis_min_replicas: 0")],
)
def test_what_a_group_may_set(qa, group, setting):
    """What is wired too: an inventory's group wins over the playbooks' `all`."""
    change(f"inventory/qa/group_vars/{group}.yml", "", f"{setting}\n")
    wrong = [f"inventory/qa/group_vars/{group}.yml: redis_users: the role redis reads it on no host of 'app'; move it"]
    assert [line.partition(" to ")[0] for line in said(qa)] == (wrong if "users" in setting else [])


def test_what_may_be_left_out(qa):
    """Memory is then shared out by what the host has."""
    change(CACHE, "cache_memory_mb: 64\nqueue_memory_mb: 64\n", "")
    assert said(qa) == []


def test_a_value_counts_where_it_wins(qa):
    """A host's own value is right, so that the group's, which no host has, is of no concern."""
    change(DATABASE, "100", "many")
    change(HOSTS, "address: 192.0.2.41", "address: 192.0.2.41, patroni_max_connections: 100")
    assert said(qa) == []


def test_nesting_of_routes_is_fine(qa):
    change(SHOP, "{path: /shop}", "{path: /shop}, {path: /shop/new}, {host: shop.example.com, path: /x, strip: true}")
    change(USERS, "{path: /users, strip: true}", "{path: /shop/users, strip: true}, {path: /}")
    assert said(qa) == []


@pytest.mark.parametrize(
    "at",
    [
        *("daily", "Hourly", "semiannually", "04:00", "*-*-* 04:00:00", "Mon..Fri 09:30", "Sat,Sun *-*-* 10:00"),
        *("*:0/15", "2026-12-24", "Mon *-*-1..7 03:00:00 Europe/Berlin", "*-*~1 23:59", "Sun", "*-*-* *:00/5:00 UTC"),
    ],
)
def test_times_of_systemd(qa, at):
    change(SHOP, "at: daily", f'at: "{at}"')
    assert said(qa) == []


@pytest.mark.parametrize("at", ["", "25:00", "4 o'clock", "*/5 * * * *", "@daily", "noon", "12:61", "Mon Tue Wed x"])
def test_times_that_are_none(qa, at):
    change(SHOP, "at: daily", f'at: "{at}"')
    [line] = said(qa)
    assert line.startswith(f"{SHOP}: schedule.report.at: is ")


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.com/a.git",
        "ssh://git@git.example.com:2222/a",
        "git@git.example.com:team/a.git",
        "/srv/a.git",
    ],
)
def test_addresses_of_git(qa, url):
    change(USERS, "https://git.example.com/users.git", url)
    assert said(qa) == []


def test_no_secret_is_told(qa):
    secret = "changeme-9Zq"  # noqa: S105 (it is none)
    change(VAULT, "7f3a0b", secret)
    change(VAULT, "s0vX3nLq8ZrTb1KdYp7WmJc5HgAe9UfR", f"{secret}-default")
    lines = said(qa)
    assert len(lines) == 2
    assert secret not in "\n".join(lines)


def test_a_longer_circle_is_named(qa):
    change(SERVICES, "users: {}", "users: {needs: [mail]}\n  mail: {needs: [shop]}")
    Path("services/mail.yml").write_text("source: {path: x}\napp: x:y\ninterface: asgi\nport: 8003\n")
    assert said(qa) == [
        f"{SERVICES}: services.mail.needs: go in a circle, mail -> shop -> users -> mail, of which none can be first;"
        " take one out"
    ]


@pytest.mark.parametrize(
    ("need", "key", "variable", "whose"),
    [
        ("database", "database: {}", "DATABASE_URL", "its database"),
        ("database-read", "database: {}", "DATABASE_READ_URL", "its database"),
        ("redis", "cache: true", "REDIS_URL", "its cache"),
        ("queue", "queue: true", "QUEUE_URL", "its queue"),
    ],
)
def test_a_need_whose_variable_is_taken(qa, need, key, variable, whose):
    change(SERVICES, "users: {}", f"users: {{}}\n  {need}: {{}}\n  asker: {{}}")
    service = "source: {path: x}\napp: x:y\ninterface: asgi\n"
    Path(f"services/{need}.yml").write_text(f"{service}port: 8003\n")
    Path("services/asker.yml").write_text(f"{service}port: 8004\nneeds: [{need}]\n{key}\n")
    assert said(qa) == [
        f"services/asker.yml: needs: '{need}' would give {variable}, which is that of {whose}; rename that service"
    ]


def test_a_certificate_for_clients(qa):
    change(MAIN, "state: /nowhere", "state: /nowhere\ntls: {mode: acme, names: [www], mail: a, renew_days: x}")
    assert said(qa) == [
        f"{MAIN}: tls.mail: unknown key; did you mean 'email'?",
        f"{MAIN}: tls.renew_days: is 'x'; has to be a whole number",
    ]


def test_names_that_no_acme_server_certifies_are_told_where_they_stand(qa):
    change(MAIN, "state: /nowhere", "state: /nowhere\ntls: {mode: acme, names: [www]}")
    change("services/shop.yml", "shop.example.com", "shop")
    dotless = "has no dot, so no authority certifies it; give the whole name, as clients ask for it"
    assert said(qa) == [f"{MAIN}: tls.names[0]: www {dotless}", f"services/shop.yml: routes[1].host: shop {dotless}"]


def test_the_key_of_a_certificate_may_be_encrypted(qa):
    """The certificate is one that an authority of its own signed, which nobody trusts; the key is that of it."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90"]
    files = ["-keyout", "inventory/qa/.key", "-out", "inventory/qa/.crt"]
    names = ["-subj", "/CN=x", "-addext", "subjectAltName=DNS:*.example.com"]
    subprocess.run([*made, *files, *names], check=True, capture_output=True)
    key = Path("inventory/qa/.key")
    key.write_bytes(VaultLib([("default", VaultSecret(b"typed"))]).encrypt(key.read_bytes()))
    change(MAIN, "state: /nowhere", "state: /nowhere\ntls: {mode: files, certificate: .crt, key: .key}")
    trust = "is signed by itself, which no client trusts; use tls.mode internal, or one of an authority"
    assert problems(qa, "typed") == [f"{MAIN}: tls.certificate: {trust}"]
    [unread, _] = problems(qa)
    assert unread.startswith(f"{MAIN}: tls.key: {qa}/.key cannot be read: ")


class Counted(dict):
    """Variables of hosts that count how often a host's are put together."""

    def __init__(self, hosts: dict[str, dict]) -> None:
        super().__init__(hosts)
        self.looks = 0

    def __getitem__(self, host: str) -> dict:
        self.looks += 1
        return super().__getitem__(host)


def test_each_host_is_looked_at_once(tmp_path):
    """So that the time grows with the number of hosts, not with its square."""
    variables = {"inventory_dir": str(tmp_path), "topology_ports": {}, "topology_services_directory": "services"}
    hosts = Counted({f"h{n}": variables | {"topology_address": f"h{n}"} for n in range(50)})
    Environment(hosts, {"all": list(hosts), "app": list(hosts)})
    assert hosts.looks == 50


def test_addresses_are_looked_up_once():
    """By every host that asks for all of them: Ansible's variables of hosts belong to an inventory."""
    hosts = Counted({f"h{n}": {"address": f"192.0.2.{n}"} for n in range(50)})
    hosts._inventory = InventoryManager(loader=DataLoader(), sources=None)
    for host in hosts:
        hosts._inventory._inventory.add_host(host, hosts._inventory._inventory.add_group("app"))
    members = load("plugins/filter/services.py", "filter_of_members").members
    for _ in range(50):
        assert members("app", {}, hosts)[7] == {"name": "h7", "address": "192.0.2.7"}
    assert hosts.looks == 50
    hosts["new"] = {"address": "192.0.2.77"}
    hosts._inventory._inventory.add_host("new", "app")
    assert members("app", {}, hosts)[50] == {"name": "new", "address": "192.0.2.77"}


# As people run it


def ansible(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"} | variables
    command = [str(ROOT / ".venv/bin/ansible-playbook"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def check(inventory: Path, *words: str, sources: bool = False) -> subprocess.CompletedProcess[str]:
    """Run what `make check` runs after it has seen that the files can be read."""
    words = (*words, "-e", f"validate_sources={sources}", str(ROOT / "playbooks/validate.yml"))
    return ansible("-i", str(inventory), *words, ANSIBLE_STDOUT_CALLBACK="lines")


def test_make_check_runs_what_is_tested_here():
    text = (ROOT / "Makefile").read_text()
    assert "READABLE := $(BIN)/python $(CURDIR)/plugins/terrace/inventory.py $(ENV)\n" in text
    assert "\t@$(READABLE) && ANSIBLE_STDOUT_CALLBACK=lines $(ANSIBLE) playbooks/validate.yml\n" in text
    assert "\t@$(READABLE) && $(ANSIBLE) site.yml $(if $(RESTORE),$(site_restore))\n" in text


def source_missing(qa: Path) -> str:
    """Return what is said of the service whose source is not there."""
    place = f"{qa.parents[1]}/shop"
    return f"{SHOP}: source.path: there is no directory {place}; correct it, relative paths start beside services/"


def test_check_passes(qa):
    result = check(qa)
    assert result.stdout == "5 hosts and 2 services (shop, users) are as they have to be.\n"
    assert (result.returncode, result.stderr) == (0, "")


def test_check_prints_lines_and_fails(qa):
    change(DATABASE, "", "patroni_max_connections: 90\n")
    change(CACHE, "queue_memory_mb: 64", "queue_memory_mb: much")
    change(USERS, "8002", "8001")
    result = check(qa, sources=True)
    assert result.stdout.splitlines() == [
        f"{DATABASE}:2: the key 'patroni_max_connections' is given twice; keep one",
        f"{CACHE}: queue_memory_mb: is 'much'; has to be a whole number",
        f"{USERS}: port: 8001 is taken by the service 'shop'; choose another",
        # `users` is not asked for, since what is declared of it is wrong.
        source_missing(qa),
    ]
    assert (result.returncode, result.stderr) == (2, "")


def test_site_refuses_before_anything_else(qa):
    change(DATABASE, "", "patroni_max_conections: 90\n")
    change(USERS, "https://git.example.com/users.git", f"{qa}/users.git")
    result = ansible("-i", str(qa), str(ROOT / "site.yml"))
    lines = result.stdout.splitlines()
    assert (
        lines.count(f"{DATABASE}: patroni_max_conections: unknown variable; did you mean 'patroni_max_connections'?")
        == 1
    )
    assert lines.count(source_missing(qa)) == 1
    assert len([line for line in lines if line.startswith("services/")]) == 2
    assert re.findall(r"(?m)^PLAY \[(.*)\]", result.stdout) == ["Validate the inventory and the services"]
    assert result.returncode == 2


def test_what_a_source_lacks_is_told_where_it_is_declared(qa):
    """In the service's own file, or in what the environment says of it."""
    change(USERS, "https://git.example.com/users.git", f"{qa}/users.git")
    change(SERVICES, "workers: 2", "source: {path: gone}")
    result = check(qa, sources=True)
    mend = "correct it, relative paths start beside services/"
    told = f"{SERVICES}: services.shop.source.path: there is no directory {qa.parents[1]}/gone; {mend}"
    assert told in result.stdout.splitlines()
    change(SERVICES, "source: {path: gone}", "workers: 2")
    assert source_missing(qa) in check(qa, sources=True).stdout.splitlines()


def test_a_plan_refuses_before_anything_else(qa):
    change(DATABASE, "", "patroni_max_conections: 90\n")
    change(USERS, "8002", "8001")
    result = ansible("-i", str(qa), "--check", str(ROOT / "playbooks/plan.yml"), ANSIBLE_STDOUT_CALLBACK="plan")
    assert result.stdout.splitlines() == [
        "... Validate the inventory and the services",
        "",
        "A run would end before it touches a host:",
        f"  {DATABASE}: patroni_max_conections: unknown variable; did you mean 'patroni_max_connections'?",
        f"  {USERS}: port: 8001 is taken by the service 'shop'; choose another",
        f"  {source_missing(qa)}",
    ]
    assert (result.returncode, result.stderr) == (1, "")


def test_files_are_read_before_ansible_does(qa):
    change(DATABASE, "100", "[100")
    command = [str(ROOT / ".venv/bin/python"), str(ROOT / "plugins/terrace/inventory.py")]
    result = subprocess.run([*command, str(qa)], capture_output=True, text=True, check=False)
    mend = "close every bracket and quote, and indent keys of one mapping alike"
    assert result.stderr == f"{DATABASE}:2: is no valid YAML (did not find expected ',' or ']'); {mend}\n"
    assert result.returncode == 1
    result = subprocess.run([*command, "inventory/qaa"], capture_output=True, text=True, check=False)
    assert result.stderr == "inventory/qaa: has no hosts.yml; name an environment that is there (qa)\n"
    assert result.returncode == 1
    Path(DATABASE).write_text(QA[DATABASE])
    result = subprocess.run([*command, str(qa)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_encrypted_files_are_looked_at_too(qa, tmp_path):
    password = tmp_path / "password"
    password.write_text("for this test\n")
    change(VAULT, "", "vault_kee: x\nvault_services: {}\n")
    encrypt = [str(ROOT / ".venv/bin/ansible-vault"), "encrypt", f"--vault-password-file={password}", VAULT]
    subprocess.run(encrypt, check=True, capture_output=True)
    assert Path(VAULT).read_text().startswith("$ANSIBLE_VAULT")
    result = check(qa, f"--vault-password-file={password}")
    assert result.stdout.splitlines() == [
        f"{VAULT}:4: the key 'vault_services' is given twice; keep one",
        f"{VAULT}: vault_kee: unknown variable; did you mean 'vault_key'?",
        f"{SHOP}: secrets: TOKEN is not in the vault; add vault_services.shop.TOKEN",
    ]
    assert result.returncode == 2
    # Before Ansible runs there is no password, and nothing is wrong with a file that is encrypted.
    command = [str(ROOT / ".venv/bin/python"), str(ROOT / "plugins/terrace/inventory.py"), str(qa)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""
