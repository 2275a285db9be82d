// A decoder in plain JavaScript: layers as genlib/presentation/deck/decoder.py describes them, arrays in C H W order.
const LAYERS = {
  Linear(x, { input, output, weight, bias }) {
    const inputs = input[0];
    return Float32Array.from({ length: output[0] }, (_, row) => {
      let sum = bias ? bias[row] : 0;
      for (let column = 0; column < inputs; column++) sum += weight[row * inputs + column] * x[column];
      return sum;
    });
  },
  // Every input pixel adds its kernel to the output, `stride` apart, of which `padding` pixels are cut off at each side.
  ConvTranspose2d(x, { input, output, kernel, stride, padding, weight, bias }) {
    const [inChannels, inHeight, inWidth] = input;
    const [outChannels, height, width] = output;
    const y = new Float32Array(outChannels * height * width);
    if (bias) for (let channel = 0; channel < outChannels; channel++) {
      y.fill(bias[channel], channel * height * width, (channel + 1) * height * width);
    }
    let at = 0;
    for (let from = 0; from < inChannels; from++) {
      for (let to = 0; to < outChannels; to++) {
        for (let row = 0; row < kernel; row++) {
          for (let column = 0; column < kernel; column++) {
            const factor = weight[at++];
            for (let i = 0; i < inHeight; i++) {
              const outRow = i * stride - padding + row;
              if (outRow < 0 || outRow >= height) continue;
              const source = (from * inHeight + i) * inWidth;
              const target = (to * height + outRow) * width;
              for (let j = 0; j < inWidth; j++) {
                const outColumn = j * stride - padding + column;
                if (outColumn >= 0 && outColumn < width) y[target + outColumn] += factor * x[source + j];
              }
            }
          }
        }
      }
    }
    return y;
  },
  Reshape: (x) => x,
  Identity: (x) => x,
  ReLU: (x) => x.map((value) => Math.max(0, value)),
  LeakyReLU: (x, { slope }) => x.map((value) => (value < 0 ? slope * value : value)),
  Sigmoid: (x) => x.map((value) => 1 / (1 + Math.exp(-value))),
  Tanh: (x) => x.map(Math.tanh),
};

function decoderOf({ layers, weights }) {
  const bytes = Uint8Array.from(atob(weights), (letter) => letter.charCodeAt(0));
  const values = new DataView(bytes.buffer);
  const numbers = Float32Array.from({ length: bytes.length / 4 }, (_, index) => values.getFloat32(4 * index, true));
  const taken = (place) => place && numbers.subarray(place[0], place[0] + place[1]);
  const ready = layers.map((layer) => ({ ...layer, weight: taken(layer.weight), bias: taken(layer.bias) }));
  return (code) => {
    const image = ready.reduce((x, layer) => LAYERS[layer.type](x, layer), Float32Array.from(code));
    return Uint8ClampedArray.from(image, (value) => Math.round(255 * Math.min(1, Math.max(0, value))));
  };
}

function picture(pixels, [channels, height, width]) {
  const data = new ImageData(width, height);
  for (let index = 0; index < height * width; index++) {
    for (let colour = 0; colour < 3; colour++) {
      data.data[4 * index + colour] = pixels[(channels === 3 ? colour : 0) * height * width + index];
    }
    data.data[4 * index + 3] = 255;
  }
  return data;
}

const explorers = [...document.querySelectorAll(".explorer")].map((explorer) => {
  const { network, codes, limits: [low, high] } = json(explorer);
  const decode = decoderOf(network);
  const map = explorer.querySelector(".map");
  const shown = explorer.querySelector(".image");
  const said = explorer.querySelector("output");
  const [, height, width] = network.shape;
  const tiles = Math.max(4, Math.round(map.width / (1.5 * Math.max(height, width))));
  const background = document.createElement("canvas");
  background.width = background.height = map.width;
  const side = map.width / tiles;
  const across = (x) => ((x - low) / (high - low)) * map.width;
  const up = (y) => ((high - y) / (high - low)) * map.width;
  let code = [0, 0];
  let painted = 0;

  function paintTile() {
    const [row, column] = [Math.floor(painted / tiles), painted % tiles];
    const step = (high - low) / tiles;
    const small = document.createElement("canvas");
    [small.width, small.height] = [width, height];
    const image = decode([low + (column + 0.5) * step, high - (row + 0.5) * step]);
    small.getContext("2d").putImageData(picture(image, network.shape), 0, 0);
    background.getContext("2d").drawImage(small, column * side, row * side, side, side);
    painted++;
  }

  function drawMap() {
    const brush = map.getContext("2d");
    brush.fillStyle = "#000";
    brush.fillRect(0, 0, map.width, map.width);
    brush.globalAlpha = 0.75;
    brush.drawImage(background, 0, 0);
    brush.globalAlpha = 0.7;
    brush.fillStyle = "#ffa90e";
    codes.forEach(([x, y]) => brush.fillRect(across(x) - 2, up(y) - 2, 4, 4));
    brush.globalAlpha = 1;
    for (const [colour, thick] of [["#000", 7], ["#ff5a36", 4]]) {
      brush.strokeStyle = colour;
      brush.lineWidth = thick;
      brush.strokeRect(across(code[0]) - side / 2, up(code[1]) - side / 2, side, side);
    }
  }

  function choose(x, y) {
    code = [x, y].map((value) => Math.min(high, Math.max(low, value)));
    shown.getContext("2d").putImageData(picture(decode(code), network.shape), 0, 0);
    said.textContent = `(${code.map((value) => value.toFixed(2).replace("-", "−")).join(", ")})`;
    drawMap();
  }

  function follow(event) {
    if (event.pointerType !== "mouse" && event.type === "pointermove" && event.buttons === 0) return;
    const box = map.getBoundingClientRect();
    choose(
      low + ((event.clientX - box.left) / box.width) * (high - low),
      high - ((event.clientY - box.top) / box.height) * (high - low),
    );
  }

  map.addEventListener("pointerdown", follow);
  map.addEventListener("pointermove", follow);
  map.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.5 : 0.1;
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] || [0, 0];
    if (!x && !y) return;
    choose(code[0] + x * step, code[1] + y * step);
    event.preventDefault();
  });

  // The map is painted a few tiles at a time, so that the page answers meanwhile.
  function paint() {
    const until = performance.now() + 12;
    while (painted < tiles * tiles && performance.now() < until) paintTile();
    drawMap();
    if (painted < tiles * tiles) setTimeout(paint, 0);
  }
  addEventListener("beforeprint", () => {
    while (painted < tiles * tiles) paintTile();
    drawMap();
  });
  choose(0, 0);
  setTimeout(paint, 0);
  return { decode, choose, painted: () => painted === tiles * tiles };
});
