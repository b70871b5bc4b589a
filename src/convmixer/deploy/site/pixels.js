// From a decoded picture to the pixels that the model was trained on, bit for bit as Pillow (13) makes them in training.

const BITS = 22; // of a weight behind the point, as in Pillow's resampling of 8-bit images

// Bicubic, a = -0.5.
function cubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return 0;
}

// For each of `size` outputs, where its inputs begin and their weights; the inputs are `from` … `from + length`.
function weights(count, from, length, size) {
  const scale = length / size;
  const wide = Math.max(scale, 1);
  const support = 2 * wide;
  const result = [];
  for (let i = 0; i < size; i++) {
    const centre = from + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(count, Math.trunc(centre + support + 0.5));
    const own = [];
    let sum = 0;
    for (let x = first; x < last; x++) {
      const weight = cubic((x - centre + 0.5) * (1 / wide));
      own.push(weight);
      sum += weight;
    }
    result.push({
      first,
      own: own.map((weight) => {
        const part = (sum === 0 ? weight : weight / sum) * 2 ** BITS;
        return Math.trunc(part < 0 ? part - 0.5 : part + 0.5);
      }),
    });
  }
  return result;
}

function rounded(sum) {
  return Math.min(255, Math.max(0, Math.floor(sum / 2 ** BITS)));
}

// One direction: each of `count` lines of three-valued pixels becomes a line of as many as there are `parts`. `along` and
// `beside` are the distances of two pixels in a line, and of two lines.
function pass(input, { start, along, beside, count }, parts, output, to) {
  for (let j = 0; j < count; j++) {
    parts.forEach(({ first, own }, i) => {
      for (let c = 0; c < 3; c++) {
        let sum = 2 ** (BITS - 1);
        for (let k = 0; k < own.length; k++) sum += own[k] * input[start + (first + k) * along + j * beside + c];
        output[i * to.along + j * to.beside + c] = rounded(sum);
      }
    });
  }
  return output;
}

// Where the inputs of the outputs begin and end.
function range(parts) {
  const last = parts[parts.length - 1];
  return [parts[0].first, last.first + last.own.length];
}

function shifted(parts, by) {
  return parts.map(({ first, own }) => ({ first: first - by, own }));
}

/** The square in the centre, scaled: {width, height, data: RGBA} to Uint8Array of (3, size, size). */
export function centreSquare({ width, height, data }, size) {
  const result = new Uint8Array(3 * size * size);
  const square = new Uint8Array(3 * size * size);
  if (width === size && height === size) {
    for (let i = 0; i < size * size; i++) for (let c = 0; c < 3; c++) square[3 * i + c] = data[4 * i + c];
  } else {
    const side = Math.min(width, height);
    const across = weights(width, (width - side) / 2, side, size);
    const down = weights(height, (height - side) / 2, side, size);
    const [left, right] = range(across);
    const [top, bottom] = range(down);
    const wide = { along: 3, beside: 3 * size };
    if (height > size && height - size > 2 * (width - size)) {
      // Pillow scales tall pictures down first, and what is in between is rounded.
      const columns = right - left;
      const from = { start: 4 * left, along: 4 * width, beside: 4, count: columns };
      const between = pass(data, from, down, new Uint8Array(3 * columns * size), { along: 3 * columns, beside: 3 });
      pass(between, { start: 0, along: 3, beside: 3 * columns, count: size }, shifted(across, left), square, wide);
    } else {
      const rows = bottom - top;
      const from = { start: 4 * top * width, along: 4, beside: 4 * width, count: rows };
      const between = pass(data, from, across, new Uint8Array(3 * rows * size), wide);
      const tall = { along: 3 * size, beside: 3 };
      pass(between, { start: 0, ...tall, count: size }, shifted(down, top), square, tall);
    }
  }
  for (let i = 0; i < size * size; i++) for (let c = 0; c < 3; c++) result[c * size * size + i] = square[3 * i + c];
  return result;
}

/** Luma of (3, size, size) as Pillow computes it: (1, size, size). */
export function grey(pixels) {
  const count = pixels.length / 3;
  const result = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    result[i] = (pixels[i] * 19595 + pixels[count + i] * 38470 + pixels[2 * count + i] * 7471 + 0x8000) >> 16;
  }
  return result;
}

/** What the model takes of a picture: (channels, size, size). */
export function prepared(image, size, channels) {
  const pixels = centreSquare(image, size);
  return channels === 1 ? grey(pixels) : pixels;
}
