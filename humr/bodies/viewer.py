"""Show meshes in a browser: a small WebGL page that needs no library, no server, no network.

Positions travel as int16, faces as uint16, colours as uint8, all in base64: about 60 kB for a body
of 2000 vertices. Normals are computed in the page. Drag turns, shift-drag moves, the wheel zooms,
a double click resets; buttons choose one mesh, or all side by side.

Code-hosting sites strip scripts and frames: show a picture in a separate output as well.
"""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from humr.bodies.rendering import CLAY, check_mesh, spread_colours
from humr.metrics import spread

MAX_VERTICES = 65_535  # uint16 indices, all that WebGL 1 promises
_INT16 = 32_767

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title><style>
html,body{margin:0;height:100%;overflow:hidden;background:#fff;font:13px sans-serif;color:#333}
canvas{width:100%;height:100%;display:block;touch-action:none;cursor:grab}
#buttons{position:absolute;top:8px;left:8px}
button{font:inherit;margin:0 4px 4px 0;padding:3px 9px;border:1px solid #bbb;border-radius:4px;
background:#fff;cursor:pointer}
button.on{background:#345;color:#fff}
#scale{position:absolute;right:12px;bottom:10px;text-align:right}
#scale div{width:180px;height:10px;margin-bottom:3px}
</style></head><body><canvas></canvas><div id="buttons"></div>@SCALE@
<script id="data" type="application/json">@DATA@</script><script>
@SCRIPT@</script></body></html>
"""


def viewer_page(
    meshes_camera: Float[Tensor, "meshes vertices 3"],
    faces: Int[Tensor, "faces 3"],
    colours: Float[Tensor, "#meshes vertices 3"] | None = None,
    *,
    labels: Sequence[str] | None = None,
    spread_mm: float | None = None,
    title: str = "Bodies",
) -> str:
    """Write a stand-alone HTML page that shows meshes of one topology.

    Meshes have any unit and OpenCV axes, so that the first view is the camera's; colours are RGB
    in [0, 1] per vertex, per mesh or shared, clay by default. Labels, for the buttons, are numbers
    by default. With `spread_mm` the scale of `rendering.spread_colours` up to it is drawn.
    """
    check_mesh(meshes_camera, faces)
    count, vertices = meshes_camera.shape[:2]
    if not count or not vertices:
        raise ValueError(f"expected at least one mesh with vertices; got {count} of {vertices}")
    if vertices > MAX_VERTICES:
        raise ValueError(
            f"the viewer takes at most {MAX_VERTICES} vertices (uint16 indices); got {vertices}: "
            "use the small body"
        )
    labels = [str(i + 1) for i in range(count)] if labels is None else list(labels)
    if len(labels) != count:
        raise ValueError(f"expected one label per mesh, {count}; got {len(labels)}")
    data = _payload(meshes_camera, faces, _colours(meshes_camera, colours), labels)
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"TITLE": html.escape(title), "SCALE": _scale(spread_mm), "DATA": text}
    script = Path(__file__).with_name("viewer.js").read_text(encoding="utf-8")
    page = _PAGE.replace("@SCRIPT@", script)
    for name, part in parts.items():
        page = page.replace(f"@{name}@", part)
    return page


def viewer_html(
    meshes_camera: Float[Tensor, "meshes vertices 3"],
    faces: Int[Tensor, "faces 3"],
    colours: Float[Tensor, "#meshes vertices 3"] | None = None,
    *,
    height: int = 480,
    **options: Any,  # noqa: ANN401  those of `viewer_page`
) -> str:
    """Wrap `viewer_page` in a frame for a notebook: `IPython.display.HTML(viewer_html(...))`.

    The frame may run scripts and nothing else; `height` is in CSS pixels.
    """
    if height < 1:
        raise ValueError(f"height must be positive (pixels); got {height}")
    page = html.escape(viewer_page(meshes_camera, faces, colours, **options))
    style = f"width:100%;height:{height}px;border:0"
    return f'<div><iframe sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe></div>'


def posterior_view(
    posterior: Any,  # noqa: ANN401  `mode` and `samples`, as `posterior.Posterior`
    body: Any,  # noqa: ANN401  a `Body`: the small one keeps the page small
    *,
    count: int = 4,
    spread_mm: float = 200.0,
    spread_hypotheses: int = 100,
) -> str:
    """Show the mode, coloured by the hypotheses' spread, and the first `count` hypotheses."""
    cloud = posterior.samples[:spread_hypotheses].vertices(body)
    if not 0 <= count <= len(cloud):
        raise ValueError(f"count must lie in 0..{len(cloud)}, the hypotheses; got {count}")
    meshes = torch.cat([posterior.mode.vertices(body)[None], cloud[:count]])
    colours = meshes.new_tensor(CLAY).repeat(*meshes.shape[:2], 1)
    colours[0] = spread_colours(spread(cloud), vmax_mm=spread_mm)
    labels = ["mode", *(f"hypothesis {i + 1}" for i in range(count))]
    return viewer_html(meshes, body.faces, colours, labels=labels, spread_mm=spread_mm)


def _colours(meshes: Tensor, colours: Tensor | None) -> Tensor:
    if colours is None:
        return meshes.new_tensor(CLAY).expand(meshes.shape)
    if colours.shape[-2:] != meshes.shape[1:] or len(colours) not in (1, len(meshes)):
        raise ValueError(
            f"colours must be (1 or {len(meshes)}, {meshes.shape[1]}, 3), one per vertex; "
            f"got {tuple(colours.shape)}"
        )
    if not ((colours >= 0) & (colours <= 1)).all():
        raise ValueError("colours must lie in [0, 1]; from 0..255, or NaN?")
    return colours.expand(meshes.shape)


def _payload(meshes: Tensor, faces: Tensor, colours: Tensor, labels: list[str]) -> dict[str, Any]:
    """Quantise: positions in a common frame, y up, z towards the viewer, largest coordinate 1."""
    points = meshes.double() * meshes.new_tensor([1, -1, -1])
    low, high = points.flatten(0, 1).amin(0), points.flatten(0, 1).amax(0)
    scale = ((high - low) / 2).amax().clamp_min(1e-9)
    positions = ((points - (low + high) / 2) * (_INT16 / scale)).round()
    return {
        "faces": _encode(faces, np.uint16),
        "meshes": [
            {"label": label, "positions": _encode(p, np.int16), "colours": _encode(c, np.uint8)}
            for label, p, c in zip(labels, positions, (colours * 255).round(), strict=True)
        ],
    }


def _encode(values: Tensor, dtype: type) -> str:
    little = np.dtype(dtype).newbyteorder("<")
    return base64.b64encode(values.cpu().numpy().astype(little).tobytes()).decode("ascii")


def _scale(spread_mm: float | None) -> str:
    """HTML of the colour scale."""
    if spread_mm is None:
        return ""
    if not spread_mm > 0:
        raise ValueError(f"spread_mm must be positive; got {spread_mm}")
    stops = spread_colours(torch.linspace(0, spread_mm / 1000, 12), vmax_mm=spread_mm)
    colours = ",".join("#" + bytes(c).hex() for c in (stops * 255).round().int().tolist())
    bar = f'<div style="background:linear-gradient(90deg,{colours})"></div>'
    return f'<div id="scale">{bar}spread 0 to {spread_mm:g} mm</div>'
