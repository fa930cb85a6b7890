"""Part `scale`: how long validating and rendering takes for generated inventories, with no host and no lab."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

import results

ROOT = results.ROOT
SIZES = (10, 100, 500)
STACK = {"loadbalancer": 2, "cache": 3, "database": 3}
SERVICES = {"users": {"database": {"pool": 1}}, "orders": {"database": {"pool": 1}}, "httpbin": {}}


def inventory(folder: Path, count: int) -> Path:
    """Write an inventory with the project's example services, and return its folder.

    Three database and three cache hosts and two balancers are as many as they are; the rest are app nodes.

    Parameters:
        folder: an empty folder; `inventory/scale` and links to the services are made in it.
        count: how many hosts, at least 10.
    """
    sizes = STACK | {"app": count - sum(STACK.values())}
    number = iter(range(count))
    children = {
        group: {"hosts": {f"{group}{i + 1}": {"ansible_host": _address(next(number))} for i in range(size)}}
        for group, size in sizes.items()
    }
    children["sentinel"] = {"hosts": dict.fromkeys(children["cache"]["hosts"])}
    children["etcd"] = {"hosts": dict.fromkeys(children["database"]["hosts"])}
    children["backup"] = {"hosts": dict.fromkeys(list(children["cache"]["hosts"])[:1])}
    values = {
        "services": SERVICES,
        "vault_key": "of-an-inventory-that-no-host-is-behind-0123456789",
        "vault_services": {},
        "pki_authority_directory": "{{ inventory_dir }}/pki",
        "pki_authority_name": "Scale",
        "cache_memory_mb": 512,
        "queue_memory_mb": 256,
        # Two services, four server connections of each on every node, and the reserve.
        "patroni_max_connections": 8 * sizes["app"] + 100,
    }
    place = folder / "inventory/scale"
    (place / "group_vars/all").mkdir(parents=True)
    (place / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": children}}, sort_keys=False))
    (place / "group_vars/all/main.yml").write_text(yaml.safe_dump(values, sort_keys=False))
    for name in ("services", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return place


def _address(number: int) -> str:
    """Return an address of 198.18.0.0/15, which is kept for benchmarks (RFC 2544): nobody is there."""
    return f"198.18.{number // 250}.{number % 250 + 1}"


def validate(place: Path) -> float:
    """Return how many seconds `ansible-playbook playbooks/validate.yml` takes, its start included."""
    start = time.monotonic()
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), f"--inventory={place}", "playbooks/validate.yml"],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"bench: the generated inventory is refused:\n{done.stdout}{done.stderr}")
    return time.monotonic() - start


def render(place: Path) -> dict[str, float]:
    """Render every template of site.yml for every host in a process of its own.

    Returns:
        `seconds` from opening the inventory to the last file, `cpu_seconds` of all processes, how many `files` there
        are, and their `bytes` together.
    """
    done = subprocess.run([sys.executable, __file__, str(place)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: cannot render for the generated inventory:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure() -> dict:
    """Return validation and rendering for each size, ROUNDS times each."""
    found = []
    for count in SIZES:
        with tempfile.TemporaryDirectory(prefix="terrace-bench-") as folder:
            place = inventory(Path(folder), count)
            checks, renderings = [], []
            for _ in range(results.rounds()):
                checks.append(validate(place))
                renderings.append(render(place))
                results.say(
                    f"scale: {count} hosts, {checks[-1]:.1f} s to validate, {renderings[-1]['seconds']:.1f} s to render"
                )
            last = renderings[-1]
            found.append(
                {
                    "hosts": count,
                    "validate_seconds": checks,
                    "render_seconds": [each["seconds"] for each in renderings],
                    "render_cpu_seconds": [each["cpu_seconds"] for each in renderings],
                    "files": last["files"],
                    "bytes": last["bytes"],
                }
            )
    return {"sizes": found}


def main() -> None:
    """Render for the inventory that is named, on all cores, and say how long that took; `render` calls this."""
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    sys.path[:0] = [str(ROOT / "tests/hostless"), str(ROOT / "plugins")]
    start = time.monotonic()
    from landscape import Landscape

    global landscape
    landscape = Landscape(Path(sys.argv[1]), vault_key=None, vault_services=None)
    with multiprocessing.get_context("fork").Pool() as pool:
        sizes = [size for sizes in pool.imap_unordered(sizes_of, landscape.hosts, chunksize=4) for size in sizes]
    seconds = time.monotonic() - start
    used = sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": seconds, "cpu_seconds": used, "files": len(sizes), "bytes": sum(sizes)}))


def sizes_of(host: str) -> list[int]:
    """Return how many bytes each file of a host has."""
    return [len(file.text.encode()) for file in landscape.files_of(host)]


if __name__ == "__main__":
    main()
