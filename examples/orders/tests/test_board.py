import json
import re
from pathlib import Path

from orders.board import StaticFiles, board
from testing.services import Service

STATIC = Path(__file__).parents[1] / "static"


def test_the_page_names_files_that_are_there(orders: Service) -> None:
    answer = orders.http.get("/orders/board")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    names = re.findall(r'"/orders/static/([^"]+)"', answer.text)
    assert names == ["board.css", "board.js"]
    assert all((STATIC / name).is_file() for name in names)


def test_a_manifest_gives_the_names(tmp_path: Path) -> None:
    manifest = tmp_path / "static.json"
    manifest.write_text(json.dumps({"board.css": "board.1f.css"}))
    page = board(StaticFiles("/files/", str(manifest)))
    assert 'href="/files/board.1f.css"' in page
    assert 'src="/files/board.js"' in page
