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
from typing import Any, Protocol, runtime_checkable

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
<script id="data" type="application/json">@DATA@</script><script>@SCRIPT@</script></body></html>
"""

_SCRIPT = """
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
const canvas = document.querySelector("canvas");
const gl = canvas.getContext("webgl");
if (!gl) { document.body.textContent = "This browser shows no WebGL: see the picture."; return; }

const shader = (kind, text) => {
  const s = gl.createShader(kind);
  gl.shaderSource(s, text); gl.compileShader(s); gl.attachShader(program, s);
};
const program = gl.createProgram();
shader(gl.VERTEX_SHADER, `attribute vec3 position, normal, colour;
uniform mat3 turn; uniform vec3 shift; uniform vec4 lens; varying vec3 n, c;
void main() {
  vec3 q = turn * position + shift;
  gl_Position = vec4(lens.xy * q.xy, lens.z * q.z + lens.w, -q.z);
  n = turn * normal; c = colour;
}`);
shader(gl.FRAGMENT_SHADER, `precision mediump float; varying vec3 n, c;
void main() {
  vec3 m = normalize(n);
  float key = max(0., dot(m, vec3(-.34, .45, .56))), fill = max(0., dot(m, vec3(.28, .04, .16)));
  gl_FragColor = vec4(c * (.3 + key + fill), 1.);
}`);
gl.linkProgram(program); gl.useProgram(program);
gl.enable(gl.DEPTH_TEST); gl.clearColor(1, 1, 1, 1);
const at = name => gl.getUniformLocation(program, name);
const upload = (target, values) => {
  const buffer = gl.createBuffer();
  gl.bindBuffer(target, buffer); gl.bufferData(target, values, gl.STATIC_DRAW);
  return buffer;
};

const faces = new Uint16Array(bytes(data.faces));
upload(gl.ELEMENT_ARRAY_BUFFER, faces);
const normals = p => {
  const n = new Float32Array(p.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
    const u = [0, 1, 2].map(i => p[b + i] - p[a + i]), v = [0, 1, 2].map(i => p[c + i] - p[a + i]);
    for (let i = 0; i < 3; i++) {
      const j = (i + 1) % 3, k = (i + 2) % 3, x = u[j] * v[k] - u[k] * v[j];
      n[a + i] += x; n[b + i] += x; n[c + i] += x;
    }
  }
  return n;
};
let high = 0, wide = 0;
const meshes = data.meshes.map(mesh => {
  const p = Float32Array.from(new Int16Array(bytes(mesh.positions)), x => x / 32767);
  for (let i = 0; i < p.length; i += 3) {
    high = Math.max(high, Math.abs(p[i + 1])); wide = Math.max(wide, Math.hypot(p[i], p[i + 2]));
  }
  const colours = new Uint8Array(bytes(mesh.colours));
  return [["position", p, gl.FLOAT], ["normal", normals(p), gl.FLOAT],
          ["colour", colours, gl.UNSIGNED_BYTE]].map(([name, values, type]) =>
    [gl.getAttribLocation(program, name), upload(gl.ARRAY_BUFFER, values), type]);
});

let chosen = 0, yaw, pitch, zoom, move;
const reset = () => { yaw = pitch = 0; zoom = 1; move = [0, 0]; };
const draw = () => {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio; canvas.height = canvas.clientHeight * ratio;
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  const shown = chosen < meshes.length ? [meshes[chosen]] : meshes;
  const aspect = canvas.width / canvas.height, focal = 4, gap = 1.7 * wide;
  const half = Math.max(high, (wide + gap * (shown.length - 1) / 2) / aspect);
  const distance = wide + 1.08 * focal * half / zoom;
  const near = .02 * distance, far = 4 * distance + 9;
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  gl.uniformMatrix3fv(at("turn"), false,
    [cy, sp * sy, -cp * sy, 0, cp, sp, sy, -sp * cy, cp * cy]);
  gl.uniform4f(at("lens"), focal / aspect, focal, (far + near) / (near - far),
    2 * far * near / (near - far));
  shown.forEach((mesh, k) => {
    gl.uniform3f(at("shift"), move[0] + gap * (k - (shown.length - 1) / 2), move[1], -distance);
    for (const [slot, buffer, type] of mesh) {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer); gl.enableVertexAttribArray(slot);
      gl.vertexAttribPointer(slot, 3, type, type === gl.UNSIGNED_BYTE, 0, 0);
    }
    gl.drawElements(gl.TRIANGLES, faces.length, gl.UNSIGNED_SHORT, 0);
  });
};

const labels = data.meshes.map(mesh => mesh.label).concat(meshes.length > 1 ? ["all"] : []);
const buttons = labels.length > 1 ? labels.map((label, k) => {
  const b = document.createElement("button");
  b.textContent = label; b.onclick = () => choose(k);
  return document.getElementById("buttons").appendChild(b);
}) : [];
const choose = k => {
  chosen = k; buttons.forEach((b, i) => b.className = i === k ? "on" : ""); draw();
};
canvas.onpointerdown = e => canvas.setPointerCapture(e.pointerId);
canvas.onpointermove = e => {
  if (!e.buttons) return;
  const [x, y] = [e.movementX, e.movementY];
  if (e.shiftKey) {
    const unit = 2 * high / zoom / canvas.clientHeight;
    move = [move[0] + unit * x, move[1] - unit * y];
  } else { yaw += x / 150; pitch = Math.max(-1.57, Math.min(1.57, pitch + y / 150)); }
  draw();
};
canvas.addEventListener("wheel", e => {
  e.preventDefault(); zoom = Math.max(.2, Math.min(20, zoom * Math.exp(-e.deltaY / 600))); draw();
}, {passive: false});
canvas.ondblclick = () => { reset(); draw(); };
window.onresize = draw;
reset(); choose(0);
})();
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

    Args:
        meshes_camera: any unit; OpenCV axes, so that the first view is the camera's.
        faces: corner indices.
        colours: RGB in [0, 1] per vertex, per mesh or shared; clay by default.
        labels: one per mesh, for the buttons; numbers by default.
        spread_mm: draw the scale of `rendering.spread_colours` up to this value.
        title: of the page.
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
    page = _PAGE.replace("@SCRIPT@", _SCRIPT)
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


@runtime_checkable
class Bodies(Protocol):
    """Bodies before a camera, `mesh.People` for one."""

    def __getitem__(self, index: slice) -> "Bodies":
        """Give some of them."""
        ...

    def vertices(self, body: Any) -> Tensor:  # noqa: ANN401  a `bodies.Body`
        """Give their meshes in camera space."""
        ...


@runtime_checkable
class Posterior(Protocol):
    """What `posterior_view` needs of a posterior."""

    @property
    def mode(self) -> Bodies:
        """One body."""
        ...

    @property
    def samples(self) -> Bodies:
        """The hypotheses."""
        ...


def posterior_view(
    posterior: Posterior,
    body: Any,  # noqa: ANN401  a `bodies.Body`: the small one keeps the page small
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
