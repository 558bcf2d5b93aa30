"use strict";
(() => {
  const MOST_PLAYERS = 4;
  const POLL_MS = 1500, MOST_POLL_MS = 15000;
  const byId = (id) => document.getElementById(id);
  const clips = byId("clips"), filter = byId("filter"), shown = byId("shown");
  const isLive = document.documentElement.dataset.live === "true";
  const players = [];

  const playlistOf = (card) => JSON.parse(card.dataset.clip);

  // Playing

  function play(card, step) {
    let video = card.querySelector("video");
    if (!video) {
      video = makePlayer(card);
      card.querySelector(".screen").replaceChildren(video);
      players.push(video);
      retirePlayers(video);
    }
    const files = playlistOf(card).files;
    seek(card, video, step === undefined ? files[0][1] : step, true);
    video.focus({ preventScroll: true });
  }

  function makePlayer(card) {
    const video = document.createElement("video");
    Object.assign(video, { controls: true, playsInline: true, preload: "auto", tabIndex: 0 });
    video.setAttribute("aria-label", card.querySelector("h3").textContent);
    video.addEventListener("timeupdate", () => follow(card, video));
    video.addEventListener("ended", () => goOn(card, video));
    video.addEventListener("error", () => retry(card, video));
    video.addEventListener("play", () => {
      for (const other of players) if (other !== video) other.pause();
    });
    return video;
  }

  function retirePlayers(kept) {
    for (const video of [...players]) {
      if (players.length <= MOST_PLAYERS) return;
      if (video === kept) continue;
      players.splice(players.indexOf(video), 1);
      video.removeAttribute("src");
      video.load();
    }
  }

  function load(video, file, seconds, goes) {
    video.dataset.file = file[0];
    video.dataset.base = file[1];
    // A file that grows is another one each time, which a browser's cache does not know.
    video.src = isLive && file[0].endsWith(".part") ? `${file[0]}?${Date.now()}` : file[0];
    video.addEventListener("loadedmetadata", () => { if (seconds > 0) video.currentTime = seconds; }, { once: true });
    if (goes) video.play().catch(() => {});
  }

  function seek(card, video, step, goes) {
    const list = playlistOf(card);
    const file = list.files.filter((one) => one[1] <= step).pop() || list.files[0];
    if (!file) return;
    const seconds = Math.max(0, (step - file[1]) / list.stride / list.fps);
    if (video.dataset.file !== file[0] || video.error) return load(video, file, seconds, goes);
    video.currentTime = seconds;
    if (goes) video.play().catch(() => {});
  }

  function follow(card, video) {
    const list = playlistOf(card);
    const step = Number(video.dataset.base) + Math.floor(video.currentTime * list.fps + 1e-3) * list.stride;
    const share = (step - list.start) / Math.max(list.end - list.start + list.stride, 1);
    card.classList.add("playing");
    const head = card.querySelector(".playhead");
    if (head) head.setAttribute("x", String(Math.min(Math.max(share, 0), 1) * 997));
    const now = card.querySelector(".now");
    now.hidden = false;
    now.textContent = "step " + step.toLocaleString("en").replaceAll(",", "\u202f");
  }

  // After a segment comes the next one; an open one goes on where it has grown meanwhile.
  function goOn(card, video) {
    const files = playlistOf(card).files;
    const place = files.findIndex((one) => one[0] === video.dataset.file);
    if (place < 0) return move(card, video);
    if (files[place + 1]) return load(video, files[place + 1], 0, true);
    if (isLive && video.dataset.file.endsWith(".part")) wait(card, video);
  }

  function retry(card, video) {
    if (!isLive || !video.dataset.file) return;
    if (playlistOf(card).files.some((one) => one[0] === video.dataset.file)) wait(card, video);
    else move(card, video);
  }

  // A segment that was closed meanwhile has another name.
  function move(card, video) {
    const file = playlistOf(card).files.find((one) => one[1] === Number(video.dataset.base));
    if (file) load(video, file, Number(video.dataset.waits || video.currentTime || 0), true);
  }

  function wait(card, video) {
    video.dataset.waits = String(video.currentTime || 0);
    video.dataset.waitsFor = card.dataset.clip + card.dataset.version;
  }

  function wake(card) {
    const video = card.querySelector("video");
    if (!video || video.dataset.waits === undefined) return;
    if (video.dataset.waitsFor === card.dataset.clip + card.dataset.version) return;
    move(card, video);
    delete video.dataset.waits;
  }

  // Pointing at a strip or a timeline

  function stepAt(card, event, target) {
    const list = playlistOf(card), box = target.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    return list.start + Math.floor((share * (list.end - list.start)) / list.stride) * list.stride;
  }

  clips.addEventListener("click", (event) => {
    const card = event.target.closest(".clip");
    if (!card || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const strip = event.target.closest(".strip, .timeline");
    if (strip && playlistOf(card).files.length) return play(card, stepAt(card, event, strip));
    if (event.target.closest("a.play")) { event.preventDefault(); play(card); }
  });

  // A link that plays is a button to whoever uses keys.
  clips.addEventListener("keydown", (event) => {
    if (event.key !== " " || !event.target.matches("a.play")) return;
    event.preventDefault();
    play(event.target.closest(".clip"));
  });

  // A file that can't be decoded has no pictures.

  const isBroken = (image) => image.complete && image.src && !image.naturalWidth;
  const hide = (image) => image.classList.add("broken");
  clips.addEventListener("error", (event) => { if (event.target.matches("img")) hide(event.target); }, true);
  for (const image of clips.querySelectorAll("img")) if (isBroken(image)) hide(image);

  // Filtering

  function applyFilter() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const cards = clips.querySelectorAll(".clip");
    let count = 0;
    for (const card of cards) {
      const isIn = words.every((word) => card.dataset.words.includes(word));
      card.hidden = !isIn;
      count += isIn;
    }
    shown.textContent = words.length ? `${count} of ${cards.length}` : "";
  }
  filter.addEventListener("input", applyFilter);

  // Following a run

  let seen = null, delay = POLL_MS;

  async function poll() {
    try {
      const answer = await fetch("./-/state", { cache: "no-store", headers: seen ? { "If-None-Match": seen } : {} });
      if (answer.status === 200) {
        await show(await answer.json());
        seen = answer.headers.get("ETag");
      } else if (answer.status !== 304) throw new Error(String(answer.status));
      if (delay !== POLL_MS) byId("announce").textContent = "";
      document.documentElement.classList.remove("lost");
      delay = POLL_MS;
    } catch {
      byId("announce").textContent = "The server does not answer.";
      document.documentElement.classList.add("lost");
      delay = Math.min(delay * 2, MOST_POLL_MS);
    }
    for (const card of clips.querySelectorAll(".clip:has(video)")) wake(card);
    setTimeout(poll, document.hidden ? MOST_POLL_MS : delay);
  }

  const shownParts = {};
  async function show(state) {
    for (const [id, html] of Object.entries(state.parts)) {
      if (shownParts[id] === html) continue;
      shownParts[id] = html;
      const part = byId(id);
      const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
      part.innerHTML = html;
      for (const one of part.querySelectorAll("details")) one.open = open.includes(one.id);
    }
    const names = new Set(state.clips.map(([name]) => "clip-" + name));
    for (const card of clips.querySelectorAll(".clip")) if (!names.has(card.id)) card.remove();
    for (const [name, version] of [...state.clips].reverse()) {
      const card = byId("clip-" + name);
      if (!card || card.dataset.version !== version) await update(name, card);
    }
    byId("empty").hidden = state.clips.length > 0;
    applyFilter();
  }

  async function update(name, card) {
    const answer = await fetch("./-/card/" + encodeURIComponent(name), { cache: "no-store" });
    if (!answer.ok) return;
    const holder = document.createElement("template");
    holder.innerHTML = await answer.text();
    const fresh = holder.content.firstElementChild;
    if (!card) return clips.prepend(fresh);
    card.dataset.clip = fresh.dataset.clip;
    card.dataset.words = fresh.dataset.words;
    let isWhole = true;
    for (const piece of ["screen", "film", "span", "facts"]) {
      const there = card.querySelector("." + piece);
      if (piece === "screen" && there.querySelector("video")) continue;
      if (there.contains(document.activeElement)) { isWhole = false; continue; }
      there.replaceWith(fresh.querySelector("." + piece));
    }
    if (isWhole) card.dataset.version = fresh.dataset.version;
  }

  if (isLive) setTimeout(poll, POLL_MS);
})();
