"""A small MCP server over stdio with the tool of BioMCP's name and shape, for test_biomcp.py.

    python literature_server.py WAY LOG

WAY is how it behaves; LOG is a file to which it adds a line of JSON for itself and for each call.
The texts it answers with are laid out as biomcp-python 0.7.3 lays out its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp.server.fastmcp import FastMCP

ARTICLES = """# Record 1
Pmid: 101
Title:
  Crystals of uric acid in the joints of people with gout: what a needle
  and a microscope can tell
Journal: Joints
Date: 2021-02-03T00:00:00Z
Abstract:
  BACKGROUND: Gout comes from crystals of uric acid.  Title: this is none.

  RESULTS: Crystals were seen in nine of ten swollen joints. A red toe was
  the usual first sign.
Pubmed Url: https://pubmed.ncbi.nlm.nih.gov/101/
Authors: A One, B Two

# Record 2
Title: Diet and gout
Abstract: Beer raises uric acid.
Publication State: peer_reviewed

# Record 3
Pmid: 103
Title: Only a title
"""
SECRET = "key-of-the-server"

way, log = (sys.argv[1], Path(sys.argv[2])) if __name__ == "__main__" else ("", Path())
app = FastMCP("literature", log_level="CRITICAL")


def note(**values: Any) -> None:
    with log.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(values) + "\n")


@app.tool()
async def article_searcher(
    keywords: list[str] | None = None, include_preprints: bool = True, include_cbioportal: bool = True, page_size: int = 10
) -> str:
    note(keywords=keywords, include_preprints=include_preprints)
    if way == "ends" and "gout" not in (keywords or ()):
        os._exit(1)
    if way == "hangs":
        await anyio.sleep_forever()
    if way == "error":
        raise ValueError(f"https://user:{SECRET}@example.org is not reachable")
    return {"nonsense": f"<html>{SECRET}</html>", "failed": "# Record 1\nError: Error 503: busy", "empty": "[]"}.get(way, ARTICLES)


if __name__ == "__main__":
    note(pid=os.getpid(), environment=sorted(os.environ))
    if way != "quits":
        app.run()
