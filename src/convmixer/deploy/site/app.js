// The page: takes a picture, asks the model, shows its answers.
import * as ort from "./ort/ort.wasm.min.mjs";
import { prepared } from "./pixels.js";

const TOP = 5;
const $ = (id) => document.getElementById(id);
let about, session, stream;

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

/** The pixels of a file, upright, on white where it is transparent. */
async function decoded(blob) {
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** Logits, probabilities and, where they are exact, class activation maps of pixels (channels, size, size). */
async function answer(pixels) {
  const { image_size: size, channels } = about.model;
  const images = new ort.Tensor("uint8", pixels, [1, channels, size, size]);
  const start = performance.now();
  const found = await session.run({ images });
  const seconds = (performance.now() - start) / 1000;
  return {
    logits: Array.from(found.logits.data),
    probabilities: Array.from(found.probabilities.data),
    maps: found.maps ? { data: found.maps.data, shape: found.maps.dims } : null,
    seconds,
  };
}

/** All of it for a file: also what tests ask for. */
async function classify(blob) {
  const { image_size: size, channels } = about.model;
  const pixels = prepared(await decoded(blob), size, channels);
  return { pixels, ...(await answer(pixels)) };
}

function drawPicture(pixels) {
  const { image_size: size, channels } = about.model;
  const canvas = $("picture");
  canvas.width = canvas.height = size;
  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[(channels === 1 ? 0 : c) * size * size + i];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Dark where nothing speaks for the class, bright where most does; what speaks against it is dark as well. */
function drawMap(maps, chosen) {
  const [, , height, width] = maps.shape;
  const own = maps.data.slice(chosen * height * width, (chosen + 1) * height * width);
  const largest = Math.max(1e-6, ...own);
  const canvas = $("map");
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  own.forEach((value, i) => {
    const share = Math.max(0, value) / largest;
    image.data.set([40 + 215 * share, 10 + 190 * share ** 1.5, 80 - 40 * share, 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function showAnswers({ probabilities, seconds }) {
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  $("answers").replaceChildren(
    ...order.slice(0, TOP).map((i) => {
      const item = document.createElement("li");
      const line = document.createElement("div");
      const [name, share] = [document.createElement("span"), document.createElement("span")];
      const [meter, bar] = [document.createElement("div"), document.createElement("div")];
      line.className = "line";
      share.className = "share";
      name.textContent = about.model.classes[i];
      share.textContent = `${(100 * probabilities[i]).toFixed(1)} %`;
      meter.className = "meter";
      meter.setAttribute("aria-hidden", "true"); // the line above says it
      bar.style.width = `${100 * probabilities[i]}%`;
      meter.append(bar);
      line.append(name, share);
      item.append(line, meter);
      return item;
    }),
  );
  $("time").textContent = `${(1000 * seconds).toFixed(1)} ms in this browser (WebAssembly, one thread)`;
  return order[0];
}

async function show(blob, name) {
  say("Looking …");
  try {
    const found = await classify(blob);
    const best = showAnswers(found);
    drawPicture(found.pixels);
    $("picture").setAttribute("aria-label", `${name}, as the model sees it`);
    $("seen").textContent = `${name}, as the model sees it: ${about.model.image_size} × ${about.model.image_size} pixels`;
    $("toggle").hidden = !found.maps;
    if (found.maps) drawMap(found.maps, best);
    $("map").hidden = !(found.maps && $("show").checked);
    $("result").hidden = false;
    say("");
  } catch (error) {
    say(`${name} cannot be used as a picture; choose a JPEG, PNG or WebP file. (${error.message ?? error})`, true);
  }
}

async function startCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (error) {
    say(`The camera cannot be used (${error.message ?? error}). A page from https:// or localhost may ask for it.`, true);
    return;
  }
  $("live").hidden = false;
  $("video").srcObject = stream;
  await $("video").play();
  $("shoot").focus();
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  $("live").hidden = true;
  $("camera").focus();
}

async function takePicture() {
  const video = $("video");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  await show(await canvas.convertToBlob({ type: "image/png" }), "The camera's picture");
}

function listen() {
  $("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) show(file, file.name);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) show(file, "The pasted picture");
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files[0]) show(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
    });
  }
  $("camera").addEventListener("click", startCamera);
  $("stop").addEventListener("click", stopCamera);
  $("shoot").addEventListener("click", takePicture);
  $("show").addEventListener("change", () => ($("map").hidden = !$("show").checked));
}

function offerSamples() {
  for (const [number, file] of about.samples.entries()) {
    const [item, button, image] = ["li", "button", "img"].map((name) => document.createElement(name));
    image.src = file;
    image.alt = `Picture ${number + 1} to try`;
    button.type = "button";
    button.addEventListener("click", async () => show(await (await fetch(file)).blob(), `Picture ${number + 1}`));
    button.append(image);
    item.append(button);
    $("samples").append(item);
  }
}

async function begin() {
  try {
    about = await (await fetch("model.json")).json();
    ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
    ort.env.wasm.numThreads = 1;
    session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  } catch (error) {
    say(`The model cannot be loaded (${error.message ?? error}). Serve this folder: python -m http.server`, true);
    return;
  }
  $("title").textContent = about.title;
  document.title = about.title;
  $("about").textContent = `${about.description} Pictures stay on this device: the model runs in this page.`;
  listen();
  offerSamples();
  say("");
  globalThis.convmixer = { classify }; // for the console, and for tests
}

begin();
