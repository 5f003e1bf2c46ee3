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
