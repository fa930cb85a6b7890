"""Every file that site.yml writes, on every host of three landscapes, as Ansible renders it."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jinja2
import jinja2.meta
import pytest
import yaml

from landscape import ROOT, VAULT_SERVICES, File, Landscape

# Redis reads no comments in an access list.
WITHOUT_HEADER = {"redis.acl.j2"}
ROLES = {
    "base",
    "etcd",
    "haproxy",
    "nginx",
    "patroni",
    "pgbackrest",
    "pgbouncer",
    "python_service",
    "redis",
    "redis_backup",
    "redis_sentinel",
    "static_files",
}


def lines(file: File) -> list[str]:
    """Return a file's lines that are neither empty nor a comment."""
    return [line for line in file.text.splitlines() if line.strip() and not re.match(r"\s*(#|;|--)", line)]


def files(landscape: Landscape, path: str) -> list[File]:
    """Return the files whose path matches, of which there has to be one."""
    found = [file for file in landscape.files if re.fullmatch(path, file.path)]
    assert found
    return found


def program(file: File) -> bool:
    """Whether a file is a program, which follows other rules of form."""
    return file.text.startswith("#!/usr/bin/python3\n")


# What all files have in common


def test_every_role_writes_the_same_files_at_every_size(lab, single, ha):
    """One code path: no template is for one size of landscape alone, but where there is no address to hold in turn."""
    edge = lab.groups["edge"]
    written = [
        {(file.role, file.source.name) for file in each.files if file.host not in edge} for each in (lab, single, ha)
    ]
    assert {role for role, _ in written[0]} == ROLES | {"keepalived"}
    virtual = {(role, name) for role, name in written[0] if role == "keepalived"}
    assert len(virtual) == 3
    written[1] |= virtual
    assert written[0] == written[1] == written[2]


def test_every_template_is_rendered(lab, single, ha, nginx, stored):
    rendered = {file.source for each in (lab, single, ha, nginx, stored) for file in each.files}
    rendered |= {ssh(lab, "app1").source}
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 (it only parses)
    found = {p.resolve() for p in [*ROOT.glob("roles/*/templates/**/*.j2"), *ROOT.glob("templates/*.j2")]}
    reached, todo = set(), set(rendered)
    while todo:
        template = todo.pop()
        reached.add(template)
        for name in jinja2.meta.find_referenced_templates(environment.parse(template.read_text())):
            # A name that is computed is that of the application server.
            names = [name] if name else ["gunicorn.j2", "uvicorn.j2", "granian.j2"]
            places = [place / n for n in names for place in (template.parent, ROOT / "templates")]
            todo |= {place.resolve() for place in places if place.exists()} - reached
    assert sorted(found - reached) == []


def test_no_litter(landscape):
    litter = re.compile(
        r"\bNone\b|\bTrue\b|\bFalse\b|\b[Uu]ndefined\b|\bomit\b|\{\{|\{%|<ansible|<built-in|dict\(|\[\]"
    )
    assert [
        f"{file}: {m[0]}" for file in landscape.files if not program(file) and (m := litter.search(file.text))
    ] == []


def test_first_lines_say_that_ansible_manages_the_file(landscape):
    headless = [
        file
        for file in landscape.files
        if file.source.name not in WITHOUT_HEADER
        and not re.match(r"(#!.*\n)?(#|;|--)?\n?(#|;|--) Ansible managed\n", file.text)
    ]
    assert headless == []


def test_files_look_cared_for(landscape):
    """No space at the end of a line, no two empty lines in a row, one newline at the end."""
    careless = [
        str(file)
        for file in landscape.files
        if re.search(r"[ \t]$", file.text, re.MULTILINE)
        or ("\n\n\n" in file.text and not program(file))
        or not re.search(r"[^\n]\n$", file.text)
    ]
    assert careless == []


def test_nothing_is_written_twice(landscape):
    """A path has one author: a second run would find the file changed otherwise."""
    paths = Counter((file.host, file.path) for file in landscape.files)
    assert [place for place, count in paths.items() if count > 1] == []


# Secrets


def test_secrets_are_closed_to_the_world(landscape):
    open_files = [file for file in landscape.files if file.for_world]
    assert open_files
    assert [str(file) for file in open_files if any(secret in file.text for secret in landscape.secrets)] == []


def test_secrets_are_found_where_they_belong(single):
    """That the test above can fail: the secrets that it looks for do stand in files."""
    missing = {s for s in single.secrets if not any(s in file.text for file in single.files)}
    derived = {single.value("solo", secret) for secret in ("pki_passphrase", "vault_key", "certificates_password")}
    readers = set(single.value("solo", "postgresql_databases | map(attribute='reader.password')"))
    awkward = VAULT_SERVICES["shop"]["SECRET_KEY"]
    # These stand in no file: the authority's, the environment's key, what balancers tell each other where there is one
    # balancer alone, readers' logins, and what is quoted on its way.
    assert missing == derived | {awkward} | readers


def test_what_tasks_show_of_databases_is_all_but_their_passwords(single):
    def passwords(value: object) -> set[str]:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        own = {value["password"]} if isinstance(value, dict) and "password" in value else set()
        return own.union(*map(passwords, parts))

    whole, bare = (single.value("solo", f"postgresql_databases{shown}") for shown in ("", " | databases_bare"))
    # Of each database, those of its owner, its two logins and its reader.
    assert len(passwords(whole)) == 4 * len(whole) > 0
    assert passwords(bare) == set()
    for database in whole:
        for role in (database["owner"], database["reader"], *database["application"]["logins"]):
            del role["password"]
    assert bare == whole


def test_a_services_secrets_are_in_its_own_environment_alone(landscape):
    token = VAULT_SERVICES["shop"]["TOKEN"]
    holders = {file.path for file in landscape.files if token in file.text}
    services = landscape.value(landscape.hosts[0], "topology_services | map(attribute='name')")
    wanted = {f"/etc/terrace/services/shop/{kind}.env" for kind in ("service", "migrate")}
    assert holders == (wanted if "shop" in services else set())


def test_redis_holds_digests_alone(landscape):
    for file in files(landscape, r"/etc/redis/.*\.acl"):
        assert not any(secret in file.text for secret in landscape.secrets), file


# What each kind of file has to be


def check_unit(file: File) -> None:
    """Sections, and in them keys with values; systemd skips what it does not understand."""
    sections = []
    text = file.text.replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if match := re.fullmatch(r"\[([A-Z][A-Za-z-]+)\]", line):
            sections.append(match[1])
        else:
            assert sections, line
            assert re.match(r"[A-Z][A-Za-z]+=", line), line
    assert sections
    assert len(sections) == len(set(sections)), sections


def check_settings(file: File) -> None:
    """Names and values with an equals sign between, each name once; a part of a name that is a star stands for all."""
    names = [re.fullmatch(r"((?:[\w-]+|\*)(?:\.(?:[\w-]+|\*))*) ?= ?(\S.*)", line)[1] for line in lines(file)]
    assert len(names) == len(set(names))


def check_variables(file: File) -> None:
    """Shell words, each a variable."""
    words = shlex.split("\n".join(lines(file)))
    assert words
    assert all(re.match(r"[A-Z_][A-Z0-9_]*=", word) for word in words), words


def check_environment(file: File) -> None:
    assert re.fullmatch(r'([A-Za-z_]\w*="([^"\\]|\\.)*"\n)+', "\n".join(lines(file)) + "\n", re.DOTALL)


def check_yaml(file: File) -> None:
    assert isinstance(yaml.safe_load(file.text), dict)


def check_ini(file: File) -> None:
    assert all(re.fullmatch(r"\[\w+\]|%include /\S+|\w+ = \S.*", line) for line in lines(file))
    parser = configparser.ConfigParser(allow_no_value=True, interpolation=None, strict=True, comment_prefixes=(";",))
    # PgBouncer includes the second file within the first one's section.
    parser.read_string(file.text if "\n[pgbouncer]\n" in file.text else f"[pgbouncer]\n{file.text}")


def check_pgbackrest(file: File) -> None:
    """Options are there once, unless they list who may ask; each database has a number, a remote one its files."""
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",))
    parser.read_string(re.sub(r"(?m)^tls-server-auth=.*\n", "", file.text))
    assert parser.sections() == ["global", "terrace"]
    assert all(re.fullmatch(r"\[\w+\]|[a-z0-9-]+=\S.*", line) for line in lines(file))
    if file.path == "/etc/pgbackrest/restored.conf":
        assert dict(parser["terrace"]) == {"pg1-path": "/var/lib/terrace/restored"}
        return
    for number in {name.partition("-")[0] for name in parser["terrace"]}:
        of = {name.partition("-")[2] for name in parser["terrace"] if name.startswith(f"{number}-")}
        others = {"host", "host-type", "host-port", "host-ca-file", "host-cert-file", "host-key-file"}
        assert of - others == {"path", "port", "socket-path"}
        assert of & others in (set(), others)


def check_certificates(file: File) -> None:
    """Everything has a value but for what may be empty, and peers have addresses with ports."""
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",))
    parser.read_string(file.text)
    assert parser.sections() == ["certificates", "peers"]
    assert all(value for name, value in parser["certificates"].items() if name not in ("email", "ca"))
    assert all(re.fullmatch(r"[\d.]+:\d+", value) for value in parser["peers"].values())


def check_redis_backup(file: File) -> None:
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",))
    parser.read_string(file.text)
    assert parser.sections() == ["redis", "restic", "keep"]
    assert parser["redis"]["sentinels"].split()
    assert all(value for section in parser.sections() for value in parser[section].values())


def check_checks(file: File) -> None:
    """Each statement has a service, a database and a role that may only read."""
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",))
    parser.read_string(file.text)
    for service in parser.sections():
        assert set(parser[service]) == {"database", "role", "statement"}
        assert parser[service]["role"].endswith("_reader")


def check_users(file: File) -> None:
    assert all(re.fullmatch(r'"[a-z_]+" "[\w-]{43}"', line) for line in lines(file))


def check_redis(file: File) -> None:
    for line in lines(file):
        assert len(shlex.split(line)) >= 2, line


def check_access(file: File) -> None:
    users = [re.fullmatch(r"user (\S+) (on #[0-9a-f]{64}|reset off)( \S+)*", line)[1] for line in lines(file)]
    assert len(users) == len(set(users))
    assert users[0] == "default"


def check_keepalived(file: File) -> None:
    """Blocks are closed, and what there is one of stands there once."""
    depth = 0
    for line in lines(file):
        depth += line.endswith("{") - (line.strip() == "}")
        assert depth >= 0, line
        assert line.startswith("    " * (depth - line.endswith("{"))), line
    assert depth == 0
    words = [line.split()[0] for line in lines(file)]
    assert words.count("vrrp_instance") == words.count("unicast_peer") == words.count("virtual_ipaddress") == 1


def check_script(file: File) -> None:
    assert re.match(r"#!/bin/sh\n(#.*\n)+set -\w*e", file.text)
    assert file.mode == "0755"
    result = subprocess.run(["sh", "-n"], input=file.text, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def check_tmpfiles(file: File) -> None:
    assert all(re.fullmatch(r"d /run/terrace\S* \d{4} \S+ \S+ -", line) for line in lines(file))


def check_routes(file: File) -> None:
    keys = [re.fullmatch(r"([a-z0-9.-]*(?:/[^\s/]+)*/) [a-z][a-z0-9-]*( /\S+)?", line)[1] for line in lines(file)]
    assert len(keys) == len(set(keys))


def check_kept(file: File) -> None:
    keys = [re.fullmatch(r"([a-z][a-z0-9-]*(?:/[^\s/?]+)*/\??) kept", line)[1] for line in lines(file)]
    assert keys
    assert len(keys) == len(set(keys))


def check_origin(file: File) -> None:
    assert all(re.fullmatch(r"/etc/terrace/pki/host\.crt [a-z.]+", line) for line in lines(file))


def check_lua(file: File) -> None:
    code = "\n".join(lines(file))
    assert len(re.findall(r"\b(?:function|if|do)\b", code)) == len(re.findall(r"\bend\b", code))


def sections(file: File) -> dict[tuple[str, str], list[str]]:
    """Return an HAProxy configuration's sections, by kind and name: their lines."""
    found: dict[tuple[str, str], list[str]] = {}
    kind = ("", "")
    for line in lines(file):
        if not line.startswith(" "):
            word, _, rest = line.partition(" ")
            kind = (word, rest)
            assert kind not in found or kind == ("global", ""), line
            found.setdefault(kind, [])
        else:
            found[kind].append(line.strip())
    return found


def check_nginx(file: File) -> None:
    """Directives end with a semicolon, blocks are closed, and where a request is passed on is a group of servers."""
    depth = 0
    for line in lines(file):
        body = line.split("'")[-1] if line.strip().startswith("log_format") else line
        if not re.fullmatch(r" +'.*'(;)?", line):
            assert re.search(r"[;{}]$|'\{'$", body.rstrip()) or "log_format" in line, line
            depth += line.rstrip().endswith("{") - (line.strip() == "}")
        assert depth >= 0, line
    assert depth == 0
    groups = re.findall(r"(?m)^    upstream (\S+) {", file.text)
    assert len(groups) == len(set(groups))
    assert set(re.findall(r"proxy_pass https?://([\w-]+)\$", file.text)) == set(groups)


def check_python(file: File) -> None:
    compile(file.text, file.path, "exec")


def check_haproxy(file: File) -> None:
    """Proxies have names of their own, and all that a line refers to exists."""
    found = sections(file)
    proxies = [(kind, name.partition(" ")[0]) for kind, name in found if kind not in ("global", "defaults")]
    fronts = Counter(name for kind, name in proxies if kind in ("frontend", "listen"))
    backs = Counter(name for kind, name in proxies if kind in ("backend", "listen"))
    assert [name for name, count in (fronts + Counter()).items() if count > 1] == []
    assert [name for name, count in backs.items() if count > 1] == []
    defaults = {name for kind, name in found if kind == "defaults"}
    servers = set()
    for (kind, rest), body in found.items():
        name, _, base = rest.partition(" from ")
        if kind in ("frontend", "backend", "listen"):
            assert base in defaults, (kind, rest)
        names = [line.split()[1] for line in body if line.startswith("server ")]
        assert len(names) == len(set(names)), (kind, rest)
        servers |= {f"{name}/{server}" for server in names}
    for line in (line for body in found.values() for line in body):
        if tracked := re.search(r"^server .* track (\S+)", line):
            assert tracked[1] in servers, line
        if backend := re.match(r"(?:use_backend|default_backend) ([\w.-]+)", line):
            assert backend[1] in backs, line
        for counted in re.findall(r"nbsrv\(([^)]+)\)", line):
            assert counted in backs, line


KINDS = {
    r"/etc/systemd/.*": check_unit,
    r"/etc/sysctl\.d/.*": check_settings,
    r"/etc/keepalived/.*\.conf": check_keepalived,
    r"/etc/(locale\.conf|default/.*|redis/.*\.env)": check_variables,
    r"/etc/terrace/services/.*\.env": check_environment,
    r"/etc/patroni/config\.yml": check_yaml,
    r"/etc/pgbouncer/.*\.ini": check_ini,
    r"/etc/pgbackrest/(pgbackrest|restored)\.conf": check_pgbackrest,
    r"/etc/restic/.*\.conf": check_redis_backup,
    r"/etc/terrace/tls/certificates\.conf": check_certificates,
    r"/etc/pgbackrest/checks\.conf": check_checks,
    r"/etc/pgbouncer/userlist\.txt": check_users,
    r"/etc/redis/.*\.conf": check_redis,
    r"/etc/redis/.*\.acl": check_access,
    r"/usr/local/(sbin/redis-|sbin/nginx-check|bin/terrace-).*": check_script,
    r"/etc/tmpfiles\.d/.*": check_tmpfiles,
    r"/etc/haproxy/.*\.cfg": check_haproxy,
    r"/etc/haproxy/lb\.routes\.map": check_routes,
    r"/etc/haproxy/lb\.kept\.map": check_kept,
    r"/etc/haproxy/lb\.origin\.list": check_origin,
    r"/etc/haproxy/.*\.lua": check_lua,
    r"/etc/nginx/.*\.conf": check_nginx,
    r"/usr/local/sbin/.*-(reload|drain|here)": check_python,
}


@pytest.mark.parametrize("path", KINDS, ids=lambda path: KINDS[path].__name__ + ":" + path)
def test_structure(landscape, path):
    for file in (file for file in landscape.files if re.fullmatch(path, file.path)):
        try:
            KINDS[path](file)
        except (AssertionError, TypeError, ValueError, configparser.Error, yaml.YAMLError) as error:
            pytest.fail(f"{file}: {error}\n{file.text}")


def test_every_structure_has_a_file(lab, nginx):
    paths = [file.path for each in (lab, nginx) for file in each.files]
    assert [kind for kind in KINDS if not any(re.fullmatch(kind, path) for path in paths)] == []


def test_every_file_has_a_structure_that_is_checked(landscape):
    assert [str(file) for file in landscape.files if not any(re.fullmatch(p, file.path) for p in KINDS)] == []


# Who listens where


def listeners(landscape: Landscape, host: str) -> Iterator[tuple[str, int]]:
    """Return where daemons of a host listen, as their configurations say."""
    for file in landscape.files:
        if file.host != host:
            continue
        if file.path.startswith("/etc/haproxy/") and file.path.endswith(".cfg"):
            found = re.findall(r"^ +bind (\S+):(\d+)", file.text, re.MULTILINE)
            assert len(found) == len(re.findall(r"^ *bind (?!unix@)", file.text, re.MULTILINE)), file
        elif file.path in ("/etc/nginx/lb.conf", "/etc/nginx/edge.conf"):
            found = re.findall(r"^ +listen ([\d.]+):(\d+) ", file.text, re.MULTILINE)
        elif file.path == "/etc/nginx/certificates.conf":
            found = re.findall(r"^ +listen ([\d.]+):(\d+) ssl;", file.text, re.MULTILINE)
        elif file.path == "/etc/default/etcd":
            found = re.findall(r'^ETCD_LISTEN_\w+="https://([\d.]+):(\d+)"', file.text, re.MULTILINE)
        elif file.path == "/etc/patroni/config.yml":
            content = yaml.safe_load(file.text)
            found = [content[part]["listen"].rsplit(":", 1) for part in ("restapi", "postgresql")]
        elif file.path == "/etc/pgbouncer/pgbouncer.ini":
            found = re.findall(r"^listen_addr = (\S+)\nlisten_port = (\d+)", file.text, re.MULTILINE)
        elif file.path == "/etc/pgbackrest/pgbackrest.conf":
            found = re.findall(r"(?m)^tls-server-address=(\S+)\ntls-server-port=(\d+)", file.text)
        elif re.fullmatch(r"/etc/redis/(redis-\w+|sentinel)\.conf", file.path):
            found = [(address, port) for address in bound(file) for port in re.findall(r"(?m)^port (\d+)", file.text)]
        else:
            continue
        assert found, file
        yield from ((address, int(port)) for address, port in found)


def bound(file: File) -> list[str]:
    return re.search(r"(?m)^bind (.+)$", file.text)[1].split()


def test_daemons_listen_exactly_on_the_port_table(landscape):
    """On the host's address or on 127.0.0.1, as the table says, nothing else, and nothing twice."""
    for host in landscape.hosts:
        value = landscape.value
        groups, ports = value(host, "group_names"), value(host, "topology_ports")
        address = value(host, "topology_address")
        here = value(host, "topology_services_here") if "app" in groups else []
        by_name = {service["name"]: service["port"] for service in value(host, "topology_services")}
        needed = {need for service in here for need in service["needs"]}
        tiers = {
            "loadbalancer": ["http", "https"],
            "app": ["node_health"],
            "cache": ["redis_cache", "redis_queue"],
            "sentinel": ["sentinel"],
            "database": ["postgresql", "patroni", "pgbackrest"],
            "etcd": ["etcd_client", "etcd_peer"],
            "backup": [] if "database" in groups else ["pgbackrest"],
            "edge": ["http", "https"],
        }
        expected = [(address, ports[name]) for tier, names in tiers.items() if tier in groups for name in names]
        if "loadbalancer" in groups and (virtual := value(host, "topology_virtual_address")):
            expected += [(virtual, ports[name]) for name in tiers["loadbalancer"]]
        if "loadbalancer" in groups and value(host, "topology_tls.mode") == "acme":
            expected += [(address, ports["certificates"])]
        limited = any(service["limits"] for service in value(host, "topology_services"))
        if value(host, "topology_engine") == "haproxy" and limited and len(landscape.groups["loadbalancer"]) > 1:
            expected += [(address, ports["limits"])] if "loadbalancer" in groups else []
        expected += [(address, service["port"]) for service in here]
        if "app" in groups:
            local = ["pgbouncer", "node_primary", "node_replica", "node_cache", "node_queue"]
            expected += [("127.0.0.1", ports[name]) for name in local]
            expected += [("127.0.0.1", by_name[need]) for need in needed]
        assert sorted(listeners(landscape, host)) == sorted(expected), host


def test_nothing_binds_everywhere(landscape):
    everywhere = re.compile(r"0\.0\.0\.0(?!/)|\[::\]|bind \*|bind :|= \*$|listen: ['\"]?\*", re.MULTILINE)
    assert [f"{file}: {m[0]}" for file in landscape.files if (m := everywhere.search(file.text))] == []


# What single lines have to say, at each size


def text(landscape: Landscape, host: str, path: str) -> str:
    [file] = [file for file in landscape.files if (file.host, file.path) == (host, path)]
    return file.text


def test_etcd_members_have_names_and_settings(single, ha):
    assert 'ETCD_NAME="solo"\n' in text(single, "solo", "/etc/default/etcd")
    for host in ("db1", "db2", "db3"):
        assert f'ETCD_NAME="{host}"\n' in text(ha, host, "/etc/default/etcd")
    assert text(ha, "db1", "/etc/default/etcd").endswith('ETCD_HEARTBEAT_INTERVAL="200"\n')


def test_patroni_sets_nothing_that_its_own_connection_shows_otherwise(ha):
    # On a unix socket these are 0: Patroni would reload, and sleep for a second, at each change of its configuration.
    parameters = yaml.safe_load(text(ha, "db2", "/etc/patroni/config.yml"))["postgresql"]["parameters"]
    assert not [name for name in parameters if name.startswith("tcp_")]


def test_patroni_shares_its_memory_out(single, ha):
    """A machine that is too small for everything gets what PostgreSQL cannot do without; one of its own nearly all."""
    content = yaml.safe_load(text(single, "solo", "/etc/patroni/config.yml"))
    parameters = content["postgresql"]["parameters"]
    wanted = {"shared_buffers": "176MB", "effective_cache_size": "528MB", "work_mem": "1MB", "max_parallel_workers": 2}
    assert {name: parameters[name] for name in wanted} == wanted
    assert content["bootstrap"]["dcs"]["postgresql"]["parameters"]["max_connections"] == 100
    assert content["bootstrap"]["dcs"]["failsafe_mode"] is True
    content = yaml.safe_load(text(ha, "db2", "/etc/patroni/config.yml"))
    # Of 3900 MiB, 390 are the system's, and 96 each etcd's and Patroni's.
    assert content["postgresql"]["parameters"]["shared_buffers"] == "829MB"
    assert content["postgresql"]["parameters"]["work_mem"] == "32MB"
    assert content["bootstrap"]["dcs"]["postgresql"]["parameters"]["max_wal_senders"] == 20
    assert content["etcd3"]["hosts"] == [f"192.0.2.4{n}:2379" for n in (1, 2, 3)]
    rules = content["postgresql"]["pg_hba"]
    assert [r for r in rules if r.startswith("hostssl replication")] == [
        f"hostssl replication replicator 192.0.2.4{n}/32 scram-sha-256" for n in (1, 2, 3)
    ]
    assert [r for r in rules if r.startswith("hostssl all all")] == [
        f"hostssl all all 192.0.2.2{n}/32 scram-sha-256" for n in (1, 2, 3)
    ]


def test_redis_waits_for_a_replica_where_there_can_be_one(single, ha):
    assert "\nmin-replicas-to-write 0\n" in text(single, "solo", "/etc/redis/redis-queue.runtime.conf")
    assert "\nmin-replicas-to-write 1\n" in text(ha, "cache2", "/etc/redis/redis-queue.runtime.conf")
    assert '\nmaxmemory "256mb"\nmaxmemory-policy "noeviction"\nappendonly "yes"\nsave ""\n' in text(
        ha, "cache2", "/etc/redis/redis-queue.runtime.conf"
    )
    drop_in = "/etc/systemd/system/redis-server@.service.d/terrace.conf"
    assert text(single, "solo", drop_in) == text(ha, "cache2", drop_in), "growing would restart the master"
    assert "\nMEMBERS='192.0.2.31 192.0.2.32 192.0.2.33'\n" in text(ha, "cache2", "/etc/redis/redis-queue.env")
    assert "\nqueue 6380 192.0.2.31 192.0.2.31 192.0.2.32 192.0.2.33\n" in text(ha, "cache2", "/etc/redis/sentinel.env")
    assert "\nQUORUM=1\n" in text(single, "solo", "/etc/redis/sentinel.env")
    assert "\nQUORUM=2\n" in text(ha, "cache3", "/etc/redis/sentinel.env")
    assert r"connected_slaves:[0-9]" in text(single, "solo", "/etc/haproxy/node.cfg")
    assert r"connected_slaves:[1-9]" in text(ha, "app1", "/etc/haproxy/node.cfg")


def test_redis_lets_services_use_what_they_declared(ha):
    users = {
        name: re.findall(r"(?m)^user (\S+)", text(ha, "cache1", f"/etc/redis/redis-{name}.acl"))
        for name in ("cache", "queue")
    }
    ours = ["default", "admin", "replica", "sentinel", "monitor"]
    assert users == {"cache": [*ours, "shop"], "queue": [*ours[:3], "backup", *ours[3:], "search-index", "shop"]}


def test_schedules_run_on_one_node(ha):
    hosts = {
        name: [f.host for f in files(ha, f"/etc/systemd/system/{name}")]
        for name in ("svc-shop-report.timer", "svc-shop@.service")
    }
    assert hosts == {"svc-shop-report.timer": ["app1"], "svc-shop@.service": ["app1", "app2", "app3"]}


def test_services_run_on_their_group(ha):
    assert [f.host for f in files(ha, "/etc/systemd/system/svc-search-index@.service")] == ["app2", "app3"]
    assert "backend search-index from" not in text(ha, "app1", "/etc/haproxy/node.cfg")
    balancer = sections(next(f for f in ha.files if (f.host, f.path) == ("lb2", "/etc/haproxy/lb.cfg")))
    servers = [
        line.split()[1:3] for line in balancer["backend", "search-index from http"] if line.startswith("server ")
    ]
    assert [server for server in servers if "." not in server[0]] == [
        ["app2", "192.0.2.22:9003"],
        ["app3", "192.0.2.23:9003"],
    ]


def test_lua_watches_only_what_may_have_a_body(ha):
    balancer = sections(next(f for f in ha.files if (f.host, f.path) == ("lb1", "/etc/haproxy/lb.cfg")))
    for name in ("shop", "search-index"):
        plain, watched = (balancer["backend", f"{name}{end} from http"] for end in ("", ".body"))
        assert not [line for line in plain if "lua" in line or "txn.body" in line]
        [filtered] = [line for line in watched if line.startswith("filter lua.")]
        assert filtered.startswith("filter lua.body ")
        # The same nodes, asked by the first backend alone.
        asked, tracking = ([line for line in lines if line.startswith("server ")] for lines in (plain, watched))
        assert [line.split()[:3] for line in tracking] == [line.split()[:3] for line in asked]
        assert not [line for line in watched if "check" in line]
        for line in tracking:
            node, _, fallback = line.split()[1].partition(".")
            assert line.endswith(f" track {name}{'.any' if fallback else ''}/{node}")


def test_peers_are_the_other_nodes(ha, single):
    node = sections(next(f for f in ha.files if (f.host, f.path) == ("app2", "/etc/haproxy/node.cfg")))
    assert [line.split()[1:3] for line in node["backend", "shop.peers from http"] if line.startswith("server ")] == [
        ["app3", "192.0.2.23:9001"],
        ["app1", "192.0.2.21:9001"],
    ]
    node = sections(next(f for f in single.files if f.path == "/etc/haproxy/node.cfg"))
    assert [line for line in node["backend", "shop.peers from http"] if line.startswith("server ")] == []


def test_a_drained_node_passes_on_what_still_arrives(ha, single):
    """To peers that are ready, and unless a peer has passed it on; a node without peers has nobody to pass it on to."""
    node = sections(next(f for f in ha.files if (f.host, f.path) == ("app2", "/etc/haproxy/node.cfg")))
    rules = [line for line in node["frontend", "shop from http"] if line.startswith(("use_backend", "acl drained"))]
    drained = "map_str(/etc/haproxy/node.drained.map) -m found"
    assert rules[:4] == [
        f"acl drained str(shop),{drained}",
        f"acl drained str(*),{drained}",
        f"acl drained str(shop),{drained.replace('.drained.', '.stale.')}",
        "use_backend shop.away if drained !{ var(txn.hop) -m bool } { nbsrv(shop.away) gt 0 }",
    ]
    away = [line.split() for line in node["backend", "shop.away from http"] if line.startswith("server ")]
    assert [(words[1], words[-1]) for words in away] == [("app3", "shop.peers/app3"), ("app1", "shop.peers/app1")]
    told = [line for line in node["frontend", "node.health from http"] if " { path /shop }" in line]
    assert [re.search(r"status (\d+)", line)[1] for line in told] == ["503", "503", "200", "503"]
    assert ".away" not in text(single, "solo", "/etc/haproxy/node.cfg")


def test_a_node_says_which_releases_were_agreed_on_and_is_shut_for_one_that_is_stale(ha, single):
    """On its health port, to whoever asks; a node without peers, too: it has some when it grows."""
    for landscape, host in ((ha, "app2"), (single, "solo")):
        file = next(f for f in landscape.files if (f.host, f.path) == (host, "/etc/haproxy/node.cfg"))
        health = sections(file)["frontend", "node.health from http"]
        [said] = [line for line in health if line.endswith("{ path /-/releases }")]
        assert "shop=%[str(shop),map_str(/etc/haproxy/node.releases.map,0::)] " in said
        [shut] = [line for line in health if "stale: its peers run" in line and "{ path /shop }" in line]
        assert shut.endswith("{ path /shop } { str(shop),map_str(/etc/haproxy/node.stale.map) -m found }")


def test_writes_are_bounded_where_they_may_have_to_wait(ha, lab):
    """By a backend that knows slots and peers as that of the service does, but for the bound."""
    node = sections(next(f for f in ha.files if (f.host, f.path) == ("app2", "/etc/haproxy/node.cfg")))
    for name, bound in (("shop", 4), ("stock", 32), ("search-index", 32)):
        write, main = (node["backend", f"{name}{end} from http"] for end in (".write", ""))
        assert "timeout queue 3s" in write
        asked, of_all = ([line for line in lines if re.match("server |http-check ", line)] for lines in (write, main))
        assert [line.removesuffix(f" maxconn {bound}") for line in asked] == of_all
        assert [line.split()[1] for line in asked if line.endswith(f" maxconn {bound}")] == ["blue", "green"]
        assert [line for line in node["frontend", f"{name} from http"] if ".write" in line] == [
            f"use_backend {name}.write if !{{ method GET HEAD OPTIONS }}"
            f" {{ nbsrv({name}.local) gt 0 }} {{ nbsrv({name}.write) gt 0 }}"
        ]
    assert ".write" not in text(lab, "app1", "/etc/haproxy/node.cfg").split("frontend httpbin")[1].split("frontend")[0]


def test_a_503_to_a_write_is_not_asked_for_again(ha):
    balancer = sections(next(f for f in ha.files if (f.host, f.path) == ("lb1", "/etc/haproxy/lb.cfg")))
    for end, wanted in (("", " 503"), (".body", "")):
        lines_ = balancer["backend", f"shop{end} from http"]
        assert f"retry-on conn-failure empty-response response-timeout{wanted}" in lines_


def test_a_host_that_is_gone_is_given_up(ha):
    """HAProxy 3.0 takes no tcp-ut from a default-server, so each server that gets requests has its own."""
    seen = 0
    for file in ha.files:
        if not re.fullmatch(r"/etc/haproxy/(lb|node)\.cfg", file.path):
            continue
        for (kind, name), its in sections(file).items():
            assert not [line for line in its if line.startswith("default-server ") and "tcp-ut" in line], name
            # These take no request; balancers that count together send each other heartbeats.
            if name.split(" ")[0].endswith(".any") or kind == "peers":
                continue
            for line in its:
                if re.match(r"server \S+ [\d.]+:", line):
                    assert re.search(r" tcp-ut (1|15)s\b", line), line
                    seen += 1
    assert seen > 20


def test_routes_of_the_load_balancer(single):
    [file] = files(single, "/etc/haproxy/lb.routes.map")
    assert lines(file) == [
        "/ search-index",
        "shop.example.com/ shop",
        "api.example.com/shop/ shop /shop",
        "/shop/ shop",
    ]


def test_application_servers_are_called_as_declared(single, ha):
    def command(landscape: Landscape, host: str, name: str) -> list[str]:
        unit = text(landscape, host, f"/etc/systemd/system/svc-{name}@.service")
        start = re.search(r"(?m)^ExecStart=((?:.*\\\n)*.*)$", unit)[1]
        return shlex.split(start.replace("\\\n", " "))

    assert command(single, "solo", "shop") == [
        "/usr/local/bin/terrace-in-release",
        "/srv/terrace/shop/%i",
        *["python", "-m", "gunicorn", "--bind=unix:/run/terrace/shop/%i.sock", "--workers=3"],
        *["--worker-class=gthread", "--threads=6", "--worker-tmp-dir=/dev/shm", "--timeout=25"],
        *["--graceful-timeout=40", "--keep-alive=75", "--forwarded-allow-ips=*", "shop.web.wsgi:application"],
    ]
    assert command(ha, "app1", "shop")[2:7] == [
        *["python", "-m", "uvicorn", "--uds=/run/terrace/shop/%i.sock", "--workers=2"],
    ]
    assert "--interface=wsgi" in command(ha, "app1", "shop")
    assert "--worker-class=uvicorn_worker.UvicornWorker" in command(ha, "app2", "search-index")
    granian = command(single, "solo", "search-index")
    assert {"granian", "--interface=wsgi", "--blocking-threads=4", "search_index:create"} <= set(granian)
    assert "--interface=asgi" in command(ha, "app2", "stock")


def test_a_percent_sign_reaches_the_command(single):
    unit = text(single, "solo", "/etc/systemd/system/svc-shop-mailer@.service")
    assert (
        "\nExecStart=/usr/local/bin/terrace-in-release /srv/terrace/shop/live python -m shop.mailer --rate=50%%\n"
        in unit
    )


def test_environment_of_a_service(single):
    """Exactly what was declared, read back the way systemd does."""
    content = "\n".join(lines(next(f for f in files(single, "/etc/terrace/services/shop/service.env"))))
    found = {
        name: re.sub(r"\\(.)", r"\1", value) for name, value in re.findall(r'(?m)^(\w+)="((?:[^"\\]|\\.)*)"$', content)
    }
    urls = {name: re.sub(r":[\w%-]{43}@", ":SECRET@", found.pop(name)) for name in list(found) if name.endswith("_URL")}
    assert urls == {
        "DATABASE_URL": "postgresql://shop_app_a:SECRET@127.0.0.1:6432/shop",
        "DATABASE_READ_URL": "postgresql://shop_app_a:SECRET@127.0.0.1:6432/shop_read",
        "DATABASE_SESSION_URL": "postgresql://shop_app_a:SECRET@127.0.0.1:6432/shop_session",
        "REDIS_URL": "redis://shop:SECRET@127.0.0.1:6379/0",
        "QUEUE_URL": "redis://shop:SECRET@127.0.0.1:6380/0",
        "STOCK_URL": "http://127.0.0.1:9002",
        "SEARCH_INDEX_URL": "http://127.0.0.1:9003",
        "STATIC_URL": "/shop/files/",
    }
    assert found == {
        "SERVICE_NAME": "shop",
        "NODE_NAME": "solo",
        "LOG_LEVEL": "info",
        "DEBUG": "false",
        "RATE": "0.5",
        "AWKWARD": "a 'b' \"c\" $d 100% \\ #e",
        **VAULT_SERVICES["shop"],
    }


def test_migrations_connect_as_the_owner(single):
    content = text(single, "solo", "/etc/terrace/services/shop/migrate.env")
    owner = single.value("solo", "postgresql_databases | selectattr('name', 'eq', 'shop') | map(attribute='owner')")[0]
    assert f'DATABASE_URL="postgresql://shop_owner:{owner["password"]}@127.0.0.1:6432/shop_session"\n' in content


def test_pools_of_a_node(ha):
    [pools] = [file for file in files(ha, "/etc/pgbouncer/pools.ini") if file.host == "app3"]
    assert lines(pools)[-6:] == [
        f"{alias} = host=127.0.0.1 port={port} dbname={name} pool_mode={mode}"
        f" pool_size={size} max_db_connections={size}"
        for name, pool in (("shop", 5), ("stock", 10))
        for alias, port, mode, size in (
            (name, 5432, "transaction", pool),
            (f"{name}_read", 5433, "transaction", pool),
            (f"{name}_session", 5432, "session", 2),
        )
    ]
    assert "server_idle_timeout = 300" in lines(pools)


def ssh(landscape: Landscape, host: str) -> File:
    """Return what `make ssh` writes for a host of the lab."""
    state = landscape.value(host, "lab_state")
    one = Landscape(
        ROOT / "inventory/lab",
        "playbooks/ssh.yml",
        lab_state=state,
        ssh_host=host,
        ssh_command="/tmp/ssh",  # noqa: S108
    )
    [file] = one.files
    return file


def test_ssh_command(lab):
    file = ssh(lab, "app2")
    state = lab.value("app2", "lab_state")
    assert file.mode == "0700"
    assert file.text == (
        "#!/bin/sh\n#\n# Ansible managed\n#\n"
        f'exec ssh -i {state}/ssh/id_ed25519 -o UserKnownHostsFile={state}/ssh/known_hosts admin@10.77.0.22 "$@"\n'
    )


def test_ssh_command_parses(lab):
    subprocess.run(["sh", "-n"], input=ssh(lab, "db1").text, text=True, check=True)


def test_paths_are_absolute(landscape):
    assert [str(file) for file in landscape.files if not Path(file.path).is_absolute() or "//" in file.path] == []


def test_no_template_depends_on_the_order_of_a_set():
    """Ansible's filters of set theory have another order in each run, so that each run would change the file."""
    unordered = re.compile(r"\| *(difference|intersect|symmetric_difference|union)\b")
    templates = [*ROOT.glob("roles/*/templates/**/*.j2"), *ROOT.glob("templates/**/*.j2")]
    assert len(templates) > 20
    assert [path.name for path in templates if unordered.search(path.read_text())] == []


def pgbackrest(landscape: Landscape, host: str) -> dict[str, str]:
    """Return the options of a host's pgBackRest; of those that are there more than once, all with commas between."""
    found: dict[str, str] = {}
    for line in text(landscape, host, "/etc/pgbackrest/pgbackrest.conf").splitlines():
        name, given, value = line.partition("=")
        if given and not line.startswith("#"):
            found[name] = ",".join(filter(None, [found.get(name), value]))
    return found


def test_backups_are_on_their_host(ha, single):
    keeper, database = pgbackrest(ha, "backup1"), pgbackrest(ha, "db2")
    assert [keeper[f"pg{number}-host"] for number in (1, 2, 3)] == ["192.0.2.41", "192.0.2.42", "192.0.2.43"]
    assert keeper["tls-server-auth"] == "db1=terrace,db2=terrace,db3=terrace"
    assert (keeper["repo1-type"], keeper["repo1-path"]) == ("posix", "/var/lib/pgbackrest")
    assert (database["repo1-host"], database["tls-server-auth"]) == ("192.0.2.51", "backup1=terrace")
    assert [name for name in database if re.match(r"pg\d-host", name) or "cipher" in name] == []
    alone = pgbackrest(single, "solo")
    assert alone["repo1-path"] == keeper["repo1-path"]
    assert "repo1-host" not in alone
    assert "pg1-host" not in alone
    # pgBackRest's server wants somebody who may ask it.
    assert re.fullmatch(r"\w+=terrace", alone["tls-server-auth"])


def test_backups_are_in_a_store(stored):
    found = pgbackrest(stored, "two")
    assert (found["repo1-type"], found["repo1-s3-bucket"]) == ("s3", "backups")
    assert "pg1-host" not in found
    assert {found["pg2-host"], found["pg3-host"]} == {"192.0.2.11", "192.0.2.13"}
    assert found["tls-server-auth"] == "one=terrace,three=terrace"
    for host in stored.hosts:
        assert "ExecCondition=" in text(stored, host, "/etc/systemd/system/terrace-backup@.service")


def test_timers_of_backups_are_where_they_are_taken(ha, single):
    def timers(landscape: Landscape) -> set[tuple[str, str]]:
        return {(file.host, Path(file.path).name) for file in landscape.files if "terrace-backup@" in file.path}

    names = ("terrace-backup@.service", *(f"terrace-backup@{kind}.timer" for kind in ("full", "diff", "incr")))
    assert timers(ha) == {("backup1", name) for name in names}
    assert timers(single) == {("solo", name) for name in names}
    assert "ExecCondition=" not in text(single, "solo", "/etc/systemd/system/terrace-backup@.service")
