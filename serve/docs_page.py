"""The page at /docs: routes, schemas and a form to try, without any network."""

import html
import json
from collections.abc import Mapping
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre,textarea{font:13px/1.4 ui-monospace,monospace}
pre{background:#f5f5f5;padding:.8rem;overflow:auto}
textarea{width:100%;height:15rem;box-sizing:border-box}
pre:empty{display:none}
button{font:inherit;padding:.2rem 1rem}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
"""

_SCRIPT = """
document.getElementById("send").onclick = async () => {
  const out = document.getElementById("answer");
  try {
    const answer = await fetch("v1/decide?explain=true", {
      method: "POST", headers: {"content-type": "application/json"},
      body: document.getElementById("body").value});
    const timing = answer.headers.get("server-timing") || "";
    out.textContent = answer.status + "  " + timing + "\\n" +
      JSON.stringify(await answer.json(), null, 2);
  } catch (error) { out.textContent = String(error); }
};
"""


def docs_page(
    openapi: Mapping[str, Any], release: str, example: Mapping[str, Any]
) -> str:
    """Return the service's description as one self-contained HTML page.

    Args:
        openapi: the description for programs.
        release: the bundle that answers now.
        example: a request that this release can answer, to start from.
    """
    schemas = openapi["components"]["schemas"]
    routes = "".join(
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td>"
        f"<td>{html.escape(str(operation.get('description', '')))}</td></tr>"
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    )
    models = "".join(
        f"<details><summary>{html.escape(name)}</summary>"
        f"<pre>{html.escape(json.dumps(schema, indent=2))}</pre></details>"
        for name, schema in sorted(schemas.items())
    )
    title = html.escape(f"{openapi['info']['title']} {openapi['info']['version']}")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        f"<p>Release <code>{html.escape(release)}</code></p>"
        f"<table>{routes}</table>"
        "<p>The whole description: <a href=openapi.json>openapi.json</a></p>"
        "<h2>Try <code>POST /v1/decide</code></h2>"
        "<p>These ads are of this release; the answer says why for each candidate.</p>"
        f"<textarea id=body>{html.escape(json.dumps(example, indent=2))}</textarea>"
        "<p><button id=send>Send</button></p><pre id=answer></pre>"
        f"<h2>Schemas</h2>{models}<script>{_SCRIPT}</script></html>"
    )
