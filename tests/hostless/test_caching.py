"""What is kept of answers: what is declared, what the configurations make of it, and what a purge removes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from landscape import ROOT, File, Landscape, load
from terrace import caching
from terrace.contracts import contract, filled
from test_nginx import block, first

filters = load("plugins/filter/caching.py", "filter_caching")
purging = load("plugins/modules/cache_purge.py", "cache_purge")

ROUTES = [{"path": "/shop"}, {"host": "shop.example"}]


def found(*rules: dict, routes: list[dict] | None = None, **more) -> list[str]:
    """Return what is wrong with rules of a service, a line each."""
    declared = {"cached": [{"path": "/shop/a"} | rule for rule in rules], "routes": routes or ROUTES, **more}
    return [f"{place}: {text}" for place, text in caching.findings(declared)]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"path": "shop"}, "cached[0].path: is 'shop'; write a path from /"),
        ({"path": "/shop/*/x"}, "cached[0].path: is '/shop/*/x'; write a path from /"),
        ({"path": "/shop/%61"}, "cached[0].path: is '/shop/%61'; write a path from /"),
        ({"path": "/shop/a;b"}, "cached[0].path: is '/shop/a;b'; write a path from /"),
        ({"path": "/shop//a"}, "cached[0].path: is '/shop//a'; what has //"),
        ({"path": "/shop/../a"}, "cached[0].path: is '/shop/../a'; what has //"),
        ({"seconds": -1}, "cached[0].seconds: is -1; has to be between 0 and 31536000"),
        ({"stale_if_error": 10**9}, "cached[0].stale_if_error: is 1000000000; has to be between 0"),
        ({"vary": ["Accept Language"]}, "cached[0].vary: has 'Accept Language', which is not the name of a header"),
        ({"vary": ["Cookie"]}, "cached[0].vary: has Cookie, which makes an answer of one visitor; name the cookies"),
        ({"vary": ["authorization"]}, "cached[0].vary: has authorization, which makes an answer of one visitor"),
        ({"query": ["a&b"]}, "cached[0].query: has 'a&b', which is not the name of a parameter"),
        ({"bypass": {"cookies": ["a=b"]}}, "cached[0].bypass.cookies: has 'a=b', which is not the name of a cookie"),
        ({"bypass": {"headers": ["X_Y"]}}, "cached[0].bypass.headers: has 'X_Y', which is not the name of a header"),
    ],
)
def test_what_is_refused(rule, said):
    [line] = found(rule)
    assert line.startswith(said), line


def test_what_is_kept_is_within_a_route():
    outside = found({"path": "/other/*"}, routes=[{"path": "/shop"}, {"path": "/s", "host": "h"}])
    assert outside == [
        "cached[0].path: is '/other/*', which is in no route of the service (/s, /shop); give a path below one of them"
    ]
    assert found({"path": "/shopping"}, routes=[{"path": "/shop"}]) != []
    for path in ("/shop", "/shop/*", "/shop/x/*"):
        assert found({"path": path}, routes=[{"path": "/shop/"}]) == []
    for path in ("/", "/*", "/x"):
        assert found({"path": path}, routes=[{"host": "h"}]) == []


def test_the_same_twice_and_what_does_nothing():
    assert found({}, {}) == ["cached[1].path: is that of cached[0]; keep one"]
    assert found(purge_on_deploy=True) == [
        "purge_on_deploy: there is nothing to remove without cached; take it out, or say what is kept"
    ]
    assert found(compression=["br"]) == ["compression: has 'br'; has to be of brotli, gzip, or [] for none"]
    assert found(compression=[]) == []


def rules(*declared: dict) -> list[dict]:
    """Return rules of a service `a-b` as the templates see them."""
    service = filled({"cached": list(declared), "routes": []}, contract("service")) | {"name": "a-b"}
    return filters.cached_rules([{"name": "a-b", "timeout_request": 9, "cached": caching.rules(service)}])


def test_single_paths_come_first_and_then_the_longest():
    declared = [{"path": path} for path in ("/*", "/x/y/*", "/x", "/x/*", "/")]
    assert [rule["asked"] for rule in rules(*declared)] == [
        "^a\\-b /x/?$".replace("\\", ""),
        "^a-b /?$",
        "^a-b /x/y/",
        "^a-b /x/",
        "^a-b /",
    ]


def test_haproxy_is_told_paths_by_what_they_begin_with():
    assert [rule["prefix"] for rule in rules({"path": "/x"}, {"path": "/x/*"}, {"path": "/"}, {"path": "/*"})] == [
        "a-b/x/?",
        "a-b/?",
        "a-b/x/",
        "a-b/",
    ]


@pytest.mark.parametrize(
    ("names", "cookie", "around"),
    [
        (None, "any=1", True),
        ([], "session=1", False),
        (["session"], "session=1", True),
        (["session"], "a=1; SESSION=1", True),
        (["session"], "a=1;session =1", True),
        (["session"], "mysession=1; a=session", False),
        (["s.x"], "sxx=1", False),
    ],
)
def test_cookies_that_matter(names, cookie, around):
    [rule] = rules({"path": "/x", "bypass": {"cookies": names}})
    assert bool(rule["cookie"] and re.search(rule["cookie"], cookie, re.IGNORECASE)) == around


@pytest.mark.parametrize(
    ("vary", "kept"),
    [
        ("", True),
        ("Accept-Encoding", True),
        ("Accept-Language , Accept-Encoding", True),
        ("Cookie", True),
        ("*", False),
        ("Accept-Language, User-Agent", False),
        ("Accept-LanguageX", False),
    ],
)
def test_what_an_answer_may_depend_on(vary, kept):
    [rule] = rules({"path": "/x", "vary": ["Accept-Language"]})
    assert bool(re.search(rule["kept"], f"a-b:0 {vary}", re.IGNORECASE)) == kept


def test_where_no_cookie_matters_none_may():
    [rule] = rules({"path": "/x", "bypass": {"cookies": []}})
    assert not re.search(rule["kept"], "a-b:0 Cookie", re.IGNORECASE)


def test_an_answer_is_of_use_as_long_as_its_rule_has_it():
    made = {"path": "/x", "seconds": 5, "stale_while_revalidate": 20, "stale_if_error": 7}
    assert filters.cached_seconds([{"cached": [made, made | {"seconds": 0}]}, {}]) == 25
    assert filters.cached_seconds([]) == 0


# What nginx makes of it


def cache(landscape: Landscape) -> File:
    return next(file for file in landscape.files if file.path == "/etc/nginx/cache.conf")


def edge(lab: Landscape) -> File:
    return next(file for file in lab.files if (file.host, file.path) == ("edge1", "/etc/nginx/edge.conf"))


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ("shop /", "shop:1"),
        ("shop /news/1", "shop:2"),
        ("shop /news/", "shop:2"),
        ("shop /news", ""),
        ("shop /newspaper", ""),
        ("shop /shop/prices", "shop:0"),
        ("shop /shop/prices/x.css", ""),
        ("stock /news/1", ""),
    ],
)
def test_which_rule_is_meant(ha, asked, rule):
    assert first(block(cache(ha), 'map "$service $prefix$path" $rule'), asked) == rule


@pytest.mark.parametrize(
    ("path", "odd"),
    [
        ("/news/1", False),
        ("/news/%C3%BC?x=//..;", False),
        ("/news/a.css", False),
        ("/news//1", True),
        ("/news/../admin", True),
        ("/news/..%2fadmin", True),
        ("/news/%2e%2e/admin", True),
        ("/news/%252e", True),
        ("/news/x;.css", True),
        ("/news/x%3B.css", True),
        ("/news/x.", True),
        ("/news/x\\y", True),
        ("/news/x%5Cy", True),
        ("/news/%0d%0a", True),
        ("/news/%00", True),
        ("/news/\xfc", True),
        ("/" + "a" * 2000, True),
    ],
)
def test_paths_that_are_read_in_more_than_one_way(ha, path, odd):
    rules_ = [rule.replace("~*", "~(?i)") for rule in block(cache(ha), "map $request_uri $odd")]
    assert bool(first(rules_, path)) == odd


@pytest.mark.parametrize(
    ("taken", "encoding"),
    [
        ("br", "br"),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("br;q=0, gzip;q=0.5", "gzip"),
        ("br;q=0.001", "br"),
        ("br; q=1.0", "br"),
        ("brotli, xgzip", ""),
        ("", ""),
        ("identity", ""),
    ],
)
def test_encodings_come_down_to_three(ha, taken, encoding):
    file = cache(ha)
    words = "".join(
        first([rule.replace("~*", "~(?i)") for rule in block(file, f"map $http_accept_encoding ${name}")], taken)
        for name in ("takes_brotli", "takes_gzip")
    )
    # Its rule for the default names a variable.
    assert {"": "", "gzip": "gzip"}.get(words, "br") == encoding


@pytest.mark.parametrize(
    ("answer", "control"),
    [
        # status, what it says of itself, what it depends on and sets, and its Expires
        ("200 silent  ", "max-age=$seconds$stale_allowed"),
        ("304 silent  ", "max-age=$seconds$stale_allowed"),
        ("404 silent  ", "no-store"),
        ("200 silent  Thu, 01 Jan 1970", "public$stale_allowed"),
        ("200 own  ", "$upstream_http_cache_control$stale_allowed"),
        ("404 own  ", "$upstream_http_cache_control$stale_allowed"),
        ("500 own  ", "no-store"),
        ("206 own  ", "no-store"),
        ("200 never  ", "no-store"),
        ("200 own cookie ", "no-store"),
        ("200 silent variescookie ", "no-store"),
    ],
)
def test_for_how_long_an_answer_is_good(ha, answer, control):
    rules_ = [line.replace("$status", "") for line in block(cache(ha), 'map "$status $said')]
    for rule in rules_:
        pattern, value = re.fullmatch(r'(?:"~(.*)"|default) "?(.*?)"?;', rule).groups()
        if pattern and re.search(pattern, answer):
            assert value == control
            return
    assert control == "no-store"


@pytest.mark.parametrize("name", ["cache", "edge"])
def test_the_service_sees_nothing_but_what_counts(ha, lab, name):
    """Whatever else a client says could be kept for all others."""
    file, rule = (cache(ha), "shop:2") if name == "cache" else (edge(lab), "httpbin:1")
    said = block(file, f"location = {rule} ")
    assert "proxy_pass_request_headers off;" in said
    sent = {line.split()[1].lower() for line in said if line.startswith("proxy_set_header ")}
    assert sent - {"accept-language"} == {
        "host", "connection", "accept-encoding", "x-request-id", "x-terrace-rule", "x-terrace-key", "x-terrace-kept",
        *(f"x-forwarded-{what}" for what in ("for", "proto", "host", "port", "prefix")),
    }  # fmt: skip
    [key] = [line for line in said if line.startswith("set $key ")]
    assert "$http_host$prefix$path" in key
    assert "$encoding" in key


def test_a_query_of_named_parameters_is_made_of_them(ha):
    file = cache(ha)
    query = "utm=1&per-page=20&x=page=9&page=2"
    found_ = [first(block(file, f"map $args $query_shop_2_{number}"), query) for number in (1, 2)]
    assert found_ == ["&page=2", "&per-page=20"]
    assert first(block(file, "map $args $again_shop_2"), "page=1&a=2&page=3") == "again"
    assert "proxy_pass http://fill$path$query_shop_2;" in block(file, "location = shop:2")


def test_an_old_answer_is_given_at_once_only_where_the_rule_says_so(ha):
    file = cache(ha)
    assert "proxy_cache_background_update on;" in block(file, "location = shop:2")
    assert "proxy_cache_use_stale updating;" in block(file, "location @shop:2")
    assert "proxy_cache_use_stale updating;" in block(file, "location = shop:0")
    assert "location @shop:0 {" not in file.text


def test_an_engine_that_keeps_nothing_is_as_it_was():
    bare = Landscape(ROOT / "inventory/staging", services={"orders": {}, "users": {"compression": None}})
    assert not [file for file in bare.files if file.path == "/etc/nginx/cache.conf"]
    for file in bare.files:
        if file.path == "/etc/haproxy/lb.cfg":
            assert "kept" not in file.text
            assert "origin" not in file.text


def test_breach(ha):
    """A service may have its answers left as they are; HAProxy has gzip alone, and brotli is asked of nginx."""
    text = next(file.text for file in ha.files if file.path == "/etc/haproxy/lb.cfg")
    assert "acl keepable var(txn.service) -m str search-index\n" in text
    assert "brotli on;" in block(cache(ha), "location @search-index")
    assert not [line for line in block(cache(ha), "location = shop:0:new") if line == "brotli on;"]
    assert "gzip on;" in block(cache(ha), "location = shop:0:new")


def test_the_edge_asks_the_load_balancers_by_name_over_tls(lab):
    file = edge(lab)
    said = block(file, "upstream httpbin")
    assert [line.split()[1] for line in said if line.startswith("server ")] == ["10.77.0.11:443", "10.77.0.12:443"]
    for line in (
        "proxy_ssl_verify on;",
        "proxy_ssl_name origin.terrace.internal;",
        "proxy_ssl_trusted_certificate /etc/terrace/pki/ca.crt;",
    ):
        assert f"    {line}\n" in file.text
    assert lab.value("lb1", "'origin.terrace.internal' in pki_names")
    assert "httpbin.lab" in lab.value("edge1", "pki_names")


def test_static_files_are_kept_at_the_edge_by_their_own_word():
    service = {"name": "a", "static": {"url": "/static/"}}
    service["routes"] = [{"host": "", "path": "/shop/", "strip": True}, {"host": "h", "path": "", "strip": False}]
    backend = {"name": "a", "routes": service["routes"], "cached": [], "timeout_request": 1}
    [edge_] = filters.services_edge([backend], [service], ["192.0.2.1"], 443)
    assert [rule["asked"] for rule in filters.cached_rules([edge_])] == ["^a /static/", "^a /shop/static/"]
    assert {rule["seconds"] for rule in edge_["cached"]} == {0}
    assert [route["strip"] for route in edge_["routes"]] == [False, False]
    assert filters.services_edge([backend], [service | {"static": None}], ["192.0.2.1"], 443)[0]["cached"] == []


def test_without_an_edge_nothing_is_said_of_it(ha):
    assert ha.value(
        "lb1", "[pki_names | select('search', 'terrace'), topology_addresses_edge, haproxy_lb_origin_certificate]"
    ) == [[], [], ""]


@pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx here")
@pytest.mark.parametrize("name", ["cache", "edge", "lb"])
def test_nginx_takes_it(lab, nginx, tmp_path, name):
    """Where the machine has nginx with brotli; the lab's hosts check each of them."""
    files = {"cache": cache(lab), "edge": edge(lab)} | {
        "lb": next(f for f in nginx.files if f.path == "/etc/nginx/lb.conf")
    }
    text = re.sub(r"(/run|/var/lib|/var/cache)/", rf"{tmp_path}/", files[name].text)
    text = re.sub(r"(?m)^ +listen \d.*\n| +(proxy_)?ssl_.*\n|^load_module.*\n| +brotli.*\n", "", text)
    (tmp_path / "x.conf").write_text(text)
    for folder in ("nginx-lb", "nginx-cache", "nginx-edge"):
        (tmp_path / folder).mkdir()
    done = subprocess.run(
        ["nginx", "-t", "-q", "-c", tmp_path / "x.conf", "-g", "pid /dev/null;"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# Purging


def keep(folder: Path, *keys: str) -> dict[str, Path]:
    """Have files as nginx keeps them, by key."""
    made = {}
    for number, key in enumerate(keys):
        path = folder / f"{number:x}/ab/{number:032x}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\5" + b"\0" * 335 + b"\nKEY: " + key.encode("latin-1") + b"\nHTTP/1.1 200 OK\r\n\r\nbody")
        made[key] = path
    return made


KEYS = (
    "shop https://shop.example/news/1 br",
    "shop https://SHOP.example:8443/news/1?page=2 gzip accept-language=de",
    "shop https://shop.example/newsletter ",
    "shop http://other.example/news/%C3%BC ",
    "stock https://shop.example/ ",
)


@pytest.mark.parametrize(
    ("services", "url", "prefix", "gone"),
    [
        ([], "", "", KEYS),
        (["shop"], "", "", KEYS[:4]),
        ([], "https://shop.example/news/1", "", KEYS[:2]),
        ([], "https://shop.example/news/1?page=2", "", KEYS[1:2]),
        ([], "/news/ü", "", KEYS[3:4]),
        ([], "", "/news", (*KEYS[:2], KEYS[3])),
        ([], "", "https://shop.example/news/", KEYS[:2]),
        (["stock"], "", "/", KEYS[4:]),
        (["stock"], "", "/news", ()),
    ],
)
def test_what_a_purge_removes(tmp_path, services, url, prefix, gone):
    files = keep(tmp_path, *KEYS)
    half = tmp_path / "0/ab/00000000000000000000000000000000.0000000001"
    half.write_bytes(b"half")
    wanted = purging.Wanted(services, url, prefix)
    assert purging.purge(str(tmp_path), wanted, check=True) == (len(gone), len(KEYS))
    assert purging.purge(str(tmp_path), wanted, check=False) == (len(gone), len(KEYS))
    assert [key for key, path in files.items() if not path.exists()] == list(gone)
    assert half.exists()


def test_nothing_is_kept_where_nothing_is(tmp_path):
    assert purging.purge(str(tmp_path / "none"), purging.Wanted([], "", ""), check=False) == (0, 0)


@pytest.mark.parametrize("said", ["STALE", "UPDATING"])
def test_the_edge_does_not_keep_for_new_what_a_load_balancer_says_is_old(lab, said):
    assert first(block(edge(lab), "map $upstream_http_x_cache $old"), said) == "STALE"
    assert {
        first(block(edge(lab), "map $upstream_http_x_cache $old"), word) for word in ("", "HIT", "REVALIDATED")
    } == {""}
    good_for = block(edge(lab), 'map "$old$status $said $varies$sets_cookie $upstream_http_expires" $good_for')
    assert [first(good_for, f"{old}200 silent  ") for old in ("", "STALE")] == [
        "max-age=$seconds$stale_allowed",
        "no-store",
    ]
    # A load balancer asks the service, which is not believed when it says so.
    assert "$old" not in cache(lab).text


def test_what_is_kept_of_static_files_is_not_logged_at_the_edge(lab):
    """A page of theirs is: its rule has a line of the access log for each request."""
    locations = {rule: "\n".join(block(edge(lab), f"location = {rule} ")) for rule in ("orders:0", "httpbin:0")}
    assert {rule: "access_log off;" in said for rule, said in locations.items()} == {
        "orders:0": True,
        "httpbin:0": False,
    }
