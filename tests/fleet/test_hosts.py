"""Every host: its system, its certificate, and that it listens where the table of ports says and nowhere else."""

from __future__ import annotations

import re
import socket
import ssl

import pytest

import lab

ALL = sorted(lab.ADDRESSES)


@pytest.mark.parametrize("name", ALL)
def test_listens_exactly_where_the_table_says(hosts, name):
    shown = hosts[name].run("ss --tcp --listening --numeric --no-header")
    assert {line.split()[3] for line in shown.splitlines()} == lab.expected_listeners(name)


@pytest.mark.parametrize("name", ALL)
def test_listens_on_no_datagram_socket(hosts, name):
    assert hosts[name].run("ss --udp --listening --numeric --no-header") == ""


@pytest.mark.parametrize("name", ALL)
def test_is_running_and_nothing_failed(hosts, name):
    assert hosts[name].run("systemctl is-system-running") == "running"


@pytest.mark.parametrize("name", ALL)
def test_base(hosts, name):
    host = hosts[name]
    assert host.run("cat /etc/timezone 2>/dev/null || readlink /etc/localtime").endswith("Etc/UTC")
    assert int(host.run("sysctl --values net.core.somaxconn")) >= 4096
    # Of the interface itself, also after a reboot: a dead neighbour is found out within seconds.
    assert host.run("sysctl --values net.ipv4.neigh.eth0.base_reachable_time_ms") == "5000"
    assert host.run("sysctl --values net.ipv4.tcp_retries2") == "8"
    first, _ = map(int, host.run("sysctl --values net.ipv4.ip_local_port_range").split())
    fixed = [*lab.PORTS.values(), *(service["port"] for service in lab.SERVICES.values())]
    assert first > max(fixed), "a local port that the kernel hands out could be taken by an outgoing connection"
    assert "SystemMaxUse" in host.run("systemd-analyze cat-config systemd/journald.conf")
    assert host.run("test -d /var/log/journal && echo persistent") == "persistent"


@pytest.mark.parametrize("name", ALL)
def test_certificate(hosts, name):
    host = hosts[name]
    assert host.file("/etc/terrace/pki/host.key") == ("640", "root", "terrace-pki")
    assert host.run("openssl verify -CAfile /etc/terrace/pki/ca.crt /etc/terrace/pki/host.crt").endswith("OK")
    text = host.run(
        "openssl x509 -in /etc/terrace/pki/host.crt -noout -ext subjectAltName,extendedKeyUsage,basicConstraints"
    )
    assert f"DNS:{name}" in text
    assert f"IP Address:{host.address}" in text
    assert "CA:FALSE" in text
    is_client = name in lab.GROUPS["database"] + lab.GROUPS["etcd"] + lab.GROUPS["backup"]
    assert ("TLS Web Client Authentication" in text) == is_client
    assert host.try_run("openssl x509 -in /etc/terrace/pki/host.crt -noout -checkend 15552000").returncode == 0


def test_the_authoritys_key_never_left_the_controller_and_is_encrypted(hosts):
    assert "ENCRYPTED" in (lab.STATE / "pki/ca.key").read_text()
    for host in hosts.values():
        assert host.run("find / -xdev -name ca.key -not -path '/proc/*'") == ""


@pytest.mark.parametrize("name", lab.BALANCERS)
def test_balancers_serve_only_current_tls(name):
    address = lab.ADDRESSES[name]
    context = lab.tls()
    with (
        socket.create_connection((address, lab.PORTS["https"]), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="httpbin.lab") as wrapped,
    ):
        assert wrapped.version() == "TLSv1.3"
    old = lab.tls()
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((address, lab.PORTS["https"]), timeout=10) as raw,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(raw, server_hostname="httpbin.lab")


def test_no_secret_is_readable_by_everyone(hosts):
    key = (lab.STATE / "vault_key").read_text().split()[0]
    secret = re.compile(r"(password|requirepass|masterauth|postgresql://|redis://)", re.IGNORECASE)
    for host in hosts.values():
        # Each file after a line with its name.
        shown = host.run(
            "find /etc/terrace /etc/haproxy /etc/patroni /etc/pgbouncer /etc/redis /etc/default /etc/systemd/system"
            " -type f -perm -o+r -exec tail --verbose --lines=+1 {} + 2>/dev/null || true"
        )
        read = re.split(r"(?m)^==> (/.*) <==$", shown)[1:]
        assert "/etc/terrace/pki/ca.crt" in read[::2]
        for path, content in zip(read[::2], read[1::2], strict=True):
            assert key not in content
            assert not re.search(secret.pattern + r"\S*[=: ]+\S{20,}", content), f"{host.name}:{path}"
