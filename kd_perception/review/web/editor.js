// Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
// The editor of `review --edit`. Each change is saved at once; what is not saved yet is said in the banner.
'use strict';

const COLORS = { student: '#ff7a1a', teacher: '#38a6ff', verified: '#2fd6a0', label: '#ffd60a', ignored: '#c3ccd6' };
const DASHES = { student: [9, 5], teacher: [5, 4], verified: [2, 4] };
const LAYER_KEYS = { student: 's', teacher: 't', verified: 'v' };
const IGNORED = 'DontCare';
const HANDLE_PX = 7;        // on the screen
const MIN_SIDE_PX = 2;      // in the image; less was a click
const SAVE_AFTER_MS = 150;

const $ = (id) => document.getElementById(id);
const canvas = $('canvas');
const context = canvas.getContext('2d');
const hidden = new Set();
const view = { scale: 1, x: 0, y: 0, fitted: true };
let list = { frames: [], classes: [], counts: {} };
let frame = null;           // what the server said of it; boxes and status are the edited ones
let image = null;
let selected = -1;
let nextClass = '';
let drag = null;
let past = [], future = [];
let dirty = false, saving = null, timer = 0, finished = false;

// ---------------------------------------------------------------- server

async function call(method, path, body) {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (_) {
    throw new Error('the program that serves this page does not answer; start it again with the same --out');
  }
  const value = await answer.json();
  if (!answer.ok) {
    const error = new Error(value.error);
    error.stale = answer.status === 409;
    throw error;
  }
  return value;
}

function problem(error) {
  $('problem').hidden = !error;
  $('problem-text').textContent = error ? `${dirty ? 'NOT SAVED: ' : ''}${error.message}` : '';
  $('retry').textContent = error && error.stale ? 'Show the other version' : 'Try again';
  $('retry').dataset.reload = error && error.stale ? '1' : '';
  if (error) { $('saved').textContent = ''; }
}

// One save at a time; a change during a save is saved after it. Resolves to true when all is on the disk.
function save() {
  clearTimeout(timer);
  if (!saving) {
    saving = saveAll().finally(() => { saving = null; });
  }
  return saving;
}

async function saveAll() {
  while (dirty) {
    const target = frame;
    dirty = false;
    showSaved('saving …', true);
    try {
      const body = { status: target.status, revision: target.revision,
        boxes: target.boxes.map((box) => ({ class: box.class, box_xyxy: box.box_xyxy })) };
      const answer = await call('PUT', `api/frames/${target.number}`, body);
      target.revision = answer.revision;
      list.counts = answer.counts;
      Object.assign(list.frames[target.number], { status: answer.status, touched: true });
      problem(null);
      showSaved('saved ✓', false);
      showFrames();
    } catch (error) {
      dirty = true;
      problem(error);
      return false;
    }
  }
  return true;
}

function showSaved(text, busy) {
  $('saved').textContent = text;
  $('saved').classList.toggle('busy', busy);
}

function changed() {
  dirty = true;
  clearTimeout(timer);
  timer = setTimeout(save, SAVE_AFTER_MS);
  show();
}

// ---------------------------------------------------------------- frames

async function open(number) {
  if (number < 0 || number >= list.frames.length || (dirty && !await save())) { return; }
  if (saving) { await saving; }
  try {
    const found = await call('GET', `api/frames/${number}`);
    const picture = new Image();
    picture.src = `api/frames/${number}/image`;
    await picture.decode();
    [frame, image] = [found, picture];
  } catch (error) {
    problem(error.message ? error : new Error(`the image of frame ${number + 1} cannot be shown`));
    return;
  }
  problem(null);
  [selected, past, future, drag] = [-1, [], [], null];
  history.replaceState(null, '', `#${number + 1}`);
  fit();
  show();
  if (number + 1 < list.frames.length) { new Image().src = `api/frames/${number + 1}/image`; }
}

async function decide(status) {
  if (!frame || drag) { return; }
  frame.status = status;
  dirty = true;
  if (!await save()) { show(); return; }
  const ahead = list.frames.findIndex((item, i) => i > frame.number && item.status === 'open');
  const any = ahead >= 0 ? ahead : list.frames.findIndex((item) => item.status === 'open');
  if (any >= 0) { await open(any); } else { show(); showSaved('all frames are decided ✓', false); }
}

async function finish() {
  if (dirty && !await save()) { return; }
  try {
    await call('POST', 'api/finish', {});
    finished = true;
    document.body.replaceChildren(Object.assign(document.createElement('h1'), {
      textContent: 'Saved. You can close this page.', style: 'padding: 40px' }));
  } catch (error) { problem(error); }
}

// ---------------------------------------------------------------- editing

function remember() {
  past.push(JSON.stringify(frame.boxes));
  if (past.length > 200) { past.shift(); }
  future = [];
}

function step(from, to) {
  if (!from.length || drag) { return; }
  to.push(JSON.stringify(frame.boxes));
  frame.boxes = JSON.parse(from.pop());
  selected = -1;
  changed();
}

function edit(change) {
  remember();
  change();
  changed();
}

function remove(index) {
  if (index < 0) { return; }
  edit(() => { frame.boxes.splice(index, 1); selected = -1; });
}

// Doubtful regions are left out of training; without them the model learns that nothing is there.
function removeIgnored() {
  if (frame.boxes.some((box) => box.class === IGNORED)) {
    edit(() => { frame.boxes = frame.boxes.filter((box) => box.class !== IGNORED); selected = -1; });
  }
}

function setClass(name) {
  nextClass = name;
  if (selected >= 0 && frame.boxes[selected].class !== name) {
    edit(() => { frame.boxes[selected].class = name; });
  } else { show(); }
}

function take(boxes) {
  edit(() => { frame.boxes = boxes.map(copy); selected = -1; });
}

const copy = (box) => ({ class: box.class, box_xyxy: inside(box.box_xyxy) });

// Sorted and cut at the image's borders, to a hundredth of a px as it is saved.
function inside(box) {
  const [height, width] = frame.image_hw;
  const cut = (value, limit) => Math.round(Math.min(Math.max(value, 0), limit) * 100) / 100;
  return [cut(Math.min(box[0], box[2]), width), cut(Math.min(box[1], box[3]), height),
    cut(Math.max(box[0], box[2]), width), cut(Math.max(box[1], box[3]), height)];
}

// Moved as a whole: at the border it stops and keeps its size.
function moved(box, dx, dy) {
  const [height, width] = frame.image_hw;
  const x = Math.min(Math.max(dx, -box[0]), width - box[2]);
  const y = Math.min(Math.max(dy, -box[1]), height - box[3]);
  return inside([box[0] + x, box[1] + y, box[2] + x, box[3] + y]);
}

const large = (box) => box[2] - box[0] >= MIN_SIDE_PX && box[3] - box[1] >= MIN_SIDE_PX;

function nudge(event) {
  const by = event.shiftKey ? 10 : 1;
  const dx = { ArrowLeft: -by, ArrowRight: by }[event.key] || 0;
  const dy = { ArrowUp: -by, ArrowDown: by }[event.key] || 0;
  const box = frame.boxes[selected].box_xyxy;
  const next = event.altKey ? inside([box[0], box[1], Math.max(box[2] + dx, box[0] + MIN_SIDE_PX),
    Math.max(box[3] + dy, box[1] + MIN_SIDE_PX)]) : moved(box, dx, dy);
  if (large(next)) { edit(() => { frame.boxes[selected].box_xyxy = next; }); }
}

// ---------------------------------------------------------------- mouse

const toImage = (event) => {
  const place = canvas.getBoundingClientRect();
  return [(event.clientX - place.left - view.x) / view.scale, (event.clientY - place.top - view.y) / view.scale];
};

// Which edges of a box are under the mouse: indices into box_xyxy; [] inside; null outside.
function edges(box, [x, y]) {
  const near = HANDLE_PX / view.scale;
  if (x < box[0] - near || x > box[2] + near || y < box[1] - near || y > box[3] + near) { return null; }
  const found = [];
  if (Math.abs(x - box[0]) <= near) { found.push(0); } else if (Math.abs(x - box[2]) <= near) { found.push(2); }
  if (Math.abs(y - box[1]) <= near) { found.push(1); } else if (Math.abs(y - box[3]) <= near) { found.push(3); }
  return found;
}

const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);

// The selected box first, then the smallest: what lies in a larger box can be reached.
function under(point) {
  const order = frame.boxes.map((box, i) => i).sort((a, b) => (b === selected) - (a === selected)
    || area(frame.boxes[a].box_xyxy) - area(frame.boxes[b].box_xyxy));
  for (const index of order) {
    const found = edges(frame.boxes[index].box_xyxy, point);
    if (found) { return { index, edges: found }; }
  }
  return null;
}

function ghost([x, y]) {
  const found = shownModels().flatMap(([, boxes]) => boxes).filter(({ box_xyxy: b }) =>
    x >= b[0] && x <= b[2] && y >= b[1] && y <= b[3]);
  return found.sort((a, b) => area(a.box_xyxy) - area(b.box_xyxy))[0];
}

canvas.addEventListener('pointerdown', (event) => {
  if (!frame || drag) { return; }
  canvas.setPointerCapture(event.pointerId);
  const from = toImage(event);
  if (event.button !== 0) {
    drag = { kind: 'pan', x: event.clientX - view.x, y: event.clientY - view.y };
    return;
  }
  const hit = event.shiftKey ? null : under(from);     // Shift draws over a box
  if (!hit) {
    drag = { kind: 'draw', from, box: null };
    selected = -1;
  } else {
    selected = hit.index;
    drag = { kind: 'change', from, edges: hit.edges, before: [...frame.boxes[selected].box_xyxy], moved: false };
  }
  show();
});

canvas.addEventListener('pointermove', (event) => {
  if (!frame) { return; }
  if (!drag) {
    const hit = under(toImage(event));
    const key = hit ? hit.edges.join('') : '-';
    canvas.style.cursor = { '': 'move', '-': 'crosshair', 0: 'ew-resize', 2: 'ew-resize', 1: 'ns-resize',
      3: 'ns-resize', '01': 'nwse-resize', 23: 'nwse-resize' }[key] || 'nesw-resize';
    return;
  }
  const [x, y] = toImage(event);
  if (drag.kind === 'pan') {
    Object.assign(view, { x: event.clientX - drag.x, y: event.clientY - drag.y, fitted: false });
  } else if (drag.kind === 'draw') {
    drag.box = inside([drag.from[0], drag.from[1], x, y]);
  } else {
    const [dx, dy] = [x - drag.from[0], y - drag.from[1]];
    if (!drag.moved && Math.hypot(dx, dy) * view.scale < 3) { return; }
    if (!drag.moved) { remember(); drag.moved = true; }
    const box = [...drag.before];
    drag.edges.forEach((side) => { box[side] += side % 2 ? dy : dx; });
    const next = drag.edges.length ? inside(box) : moved(drag.before, dx, dy);
    if (large(next)) { frame.boxes[selected].box_xyxy = next; }
  }
  draw();
});

function release(event) {
  if (!drag) { return; }
  const done = drag;
  drag = null;
  if (done.kind === 'draw' && done.box && large(done.box)) {
    edit(() => { selected = frame.boxes.push({ class: nextClass, box_xyxy: done.box }) - 1; });
  } else if (done.kind === 'draw' && event.type === 'pointerup') {
    const found = ghost(done.from);
    if (found) { edit(() => { selected = frame.boxes.push(copy(found)) - 1; }); } else { show(); }
  } else if (done.moved) { changed(); } else { show(); }
}
canvas.addEventListener('pointerup', release);
canvas.addEventListener('pointercancel', release);
canvas.addEventListener('contextmenu', (event) => event.preventDefault());

canvas.addEventListener('wheel', (event) => {
  event.preventDefault();
  if (!image) { return; }
  const place = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - place.left, event.clientY - place.top];
  const scale = Math.min(Math.max(view.scale * Math.exp(-event.deltaY / 400), 0.05), 40);
  view.x = x - (x - view.x) * scale / view.scale;
  view.y = y - (y - view.y) * scale / view.scale;
  Object.assign(view, { scale, fitted: false });
  draw();
}, { passive: false });

// ---------------------------------------------------------------- keys

document.addEventListener('keydown', (event) => {
  if (!frame || finished || (event.target.tagName === 'INPUT' && event.key === ' ')) { return; }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const control = event.ctrlKey || event.metaKey;
  const onButton = event.target.tagName === 'BUTTON';
  if (control && !'zy'.includes(key)) { return; }
  const arrows = key.startsWith('Arrow');
  const index = frame.boxes.length ? (selected + (event.shiftKey ? -1 : 1) + frame.boxes.length) % frame.boxes.length : -1;
  const layer = Object.keys(LAYER_KEYS).find((name) => LAYER_KEYS[name] === key);
  const actions = {
    Enter: () => decide('accepted'), x: () => decide('rejected'), n: () => open(frame.number + 1),
    p: () => open(frame.number - 1), z: () => step(event.shiftKey ? future : past, event.shiftKey ? past : future),
    y: () => step(future, past), Delete: () => remove(selected), Backspace: () => remove(selected),
    Escape: () => { selected = -1; show(); }, f: () => { fit(); draw(); }, r: () => take(frame.proposal),
    d: removeIgnored,
    Tab: () => { selected = selected < 0 && event.shiftKey ? frame.boxes.length - 1 : index; show(); },
  };
  if (key === 'Enter' && onButton) { return; }         // presses the button
  if (key === 'Tab' && event.target !== canvas && event.target !== document.body) { return; }
  if (arrows && selected >= 0) { nudge(event); }
  else if (key === 'ArrowRight' || key === 'ArrowDown') { open(frame.number + 1); }
  else if (key === 'ArrowLeft' || key === 'ArrowUp') { open(frame.number - 1); }
  else if (/^[1-9]$/.test(key) && list.classes[key - 1]) { setClass(list.classes[key - 1]); }
  else if (layer && !control) { toggle(layer); }
  else if (actions[key]) { actions[key](); }
  else { return; }
  event.preventDefault();
});

function toggle(layer) {
  if (!hidden.delete(layer)) { hidden.add(layer); }
  show();
}

// ---------------------------------------------------------------- picture

const shownModels = () => Object.entries(frame.models).filter(([name]) => !hidden.has(name));

function fit() {
  const [height, width] = frame.image_hw;
  const place = canvas.getBoundingClientRect();
  const scale = Math.min(place.width / width, place.height / height) * 0.98;
  Object.assign(view, { scale, x: (place.width - width * scale) / 2, y: (place.height - height * scale) / 2, fitted: true });
}

function rectangle([x1, y1, x2, y2], color, width, dash) {
  const at = [x1 * view.scale + view.x, y1 * view.scale + view.y, (x2 - x1) * view.scale, (y2 - y1) * view.scale];
  context.setLineDash([]);
  context.strokeStyle = 'rgba(0,0,0,.55)';             // a dark rim: seen on bright ground too
  context.lineWidth = width + 2;
  if (!dash) { context.strokeRect(...at); }
  context.setLineDash(dash || []);
  context.strokeStyle = color;
  context.lineWidth = width;
  context.strokeRect(...at);
  return at;
}

function tag(text, x, y, color, below) {
  context.font = '600 12px system-ui, "DejaVu Sans", sans-serif';
  const width = context.measureText(text).width + 8;
  const left = Math.min(Math.max(x, 0), Math.max(canvas.clientWidth - width, 0));
  const top = Math.min(Math.max(below ? y : y - 17, 0), canvas.clientHeight - 17);
  context.fillStyle = color;
  context.fillRect(left, top, width, 17);
  context.fillStyle = '#10161d';
  context.fillText(text, left + 4, top + 13);
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  if (!image) { return; }
  context.imageSmoothingEnabled = view.scale < 3;
  context.drawImage(image, view.x, view.y, frame.image_hw[1] * view.scale, frame.image_hw[0] * view.scale);
  for (const [name, boxes] of shownModels()) {
    for (const box of boxes) {
      const [x, y, , h] = rectangle(box.box_xyxy, COLORS[name], box.alone ? 2.5 : 1.5, DASHES[name]);
      if (box.alone) { tag(`${box.class} ${box.score.toFixed(2)}`, x, y + h, COLORS[name], true); }
    }
  }
  frame.boxes.forEach((box, i) => {
    // What is neither right nor wrong stays in the background: there is much of it where a model has doubts.
    const ignored = box.class === IGNORED;
    const color = ignored ? COLORS.ignored : COLORS.label;
    const [x, y, w, h] = rectangle(box.box_xyxy, color, i === selected ? 3 : ignored ? 1 : 2,
      ignored && i !== selected ? [2, 3] : undefined);
    context.setLineDash([]);
    if (i === selected) {
      context.fillStyle = 'rgba(255,214,10,.14)';
      context.fillRect(x, y, w, h);
      context.fillStyle = '#fff';
      context.strokeStyle = '#10161d';
      context.lineWidth = 1;
      for (const px of [x, x + w / 2, x + w]) {
        for (const py of [y, y + h / 2, y + h]) {
          if (px === x + w / 2 && py === y + h / 2) { continue; }
          context.fillRect(px - 3.5, py - 3.5, 7, 7);
          context.strokeRect(px - 3.5, py - 3.5, 7, 7);
        }
      }
    }
    if (!ignored || i === selected) { tag(box.class, x, y, color, false); }
  });
  if (drag && drag.kind === 'draw' && drag.box) { rectangle(drag.box, COLORS.label, 2, [4, 3]); }
}

// ---------------------------------------------------------------- panels

function element(name, text, properties) {
  return Object.assign(document.createElement(name), text === undefined ? {} : { textContent: text }, properties);
}

function showFrames() {
  const total = list.frames.length;
  const { accepted = 0, rejected = 0 } = list.counts;
  $('bar-accepted').style.width = `${100 * accepted / total}%`;
  $('bar-rejected').style.width = `${100 * rejected / total}%`;
  $('counts').textContent = `${accepted} accepted, ${rejected} rejected, ${total - accepted - rejected} of ${total} left`;
  const rows = $('frames').children;
  list.frames.forEach((item, i) => {
    rows[i].firstChild.className = item.status === 'open' ? (item.touched ? 'touched' : '') : item.status;
    rows[i].title = `${item.name}: ${item.status}`;
    rows[i].classList.toggle('current', frame !== null && frame.number === i);
  });
}

function makeFrames() {
  $('frames').replaceChildren(...list.frames.map((item, i) => {
    const row = element('li');
    const count = item.disagreement === null ? 'no teacher' : item.disagreement ? `${item.disagreement} differ` : 'agree';
    row.append(element('i'), element('span', `${i + 1}`), element('small', count));
    row.addEventListener('click', () => open(i));
    return row;
  }));
}

function showFacts() {
  const facts = frame.facts;
  const seconds = (facts.stamp_ns / 1e9).toFixed(3);
  const parts = [['frame', `${frame.number + 1} of ${list.frames.length}`], ['camera', facts.camera], ['time', seconds],
    ['reason', facts.reason], ['answered by', facts.source],
    ['ambiguity', facts.ambiguity === null ? '' : facts.ambiguity.toFixed(2)]];
  const verdict = element('span', frame.status === 'open' ? 'not decided' : frame.status,
    { className: `verdict ${frame.status}` });
  $('facts').replaceChildren(verdict, ...parts.filter(([, value]) => value !== '' && value !== undefined).map(([name, value]) => {
    const item = element('span', `${name} `);
    item.append(element('b', value));
    return item;
  }));
}

function showLabels() {
  $('label-count').textContent = frame.boxes.length || '';
  $('labels').replaceChildren(...frame.boxes.map((box, i) => {
    const row = element('li', undefined, { className: box.class === IGNORED ? 'ignored' : '' });
    row.classList.toggle('current', i === selected);
    const size = [box.box_xyxy[2] - box.box_xyxy[0], box.box_xyxy[3] - box.box_xyxy[1]].map(Math.round).join('×');
    const cross = element('button', '×', { type: 'button', title: 'delete', ariaLabel: `delete ${box.class}` });
    cross.addEventListener('click', (event) => { event.stopPropagation(); remove(i); });
    row.append(element('span', box.class), element('small', `${size} px`), cross);
    row.addEventListener('click', () => { selected = i; show(); canvas.focus(); });
    return row;
  }));
  if (!frame.boxes.length) {
    $('labels').append(element('li', 'none: accepted so, the frame shows nothing of any class', { className: 'none' }));
  }
  const current = $('labels').querySelector('.current');
  if (current) { current.scrollIntoView({ block: 'nearest' }); }
}

function showClasses() {
  const current = selected >= 0 ? frame.boxes[selected].class : nextClass;
  $('classes').replaceChildren(...list.classes.map((name, i) => {
    const button = element('button', name, { type: 'button', className: name === current ? 'current' : '' });
    if (i < 9) { button.append(' ', element('kbd', i + 1)); }
    button.addEventListener('click', () => { setClass(name); canvas.focus(); });
    return button;
  }));
}

function showLayers() {
  $('layers').replaceChildren(...['student', 'teacher', 'verified'].map((name) => {
    const boxes = frame.models[name];
    const row = element('label');
    const box = element('input', undefined, { type: 'checkbox', checked: !hidden.has(name), disabled: !boxes });
    box.addEventListener('change', () => { toggle(name); canvas.focus(); });
    row.append(box, element('i', undefined, { className: name }), element('span', name),
      element('small', boxes ? boxes.length : 'no answer'), element('kbd', LAYER_KEYS[name].toUpperCase()));
    if (boxes) {
      const all = element('button', 'use these', { type: 'button', title: `begin with the boxes of the ${name}` });
      all.addEventListener('click', (event) => { event.preventDefault(); take(boxes); canvas.focus(); });
      row.append(all);
    }
    return row;
  }));
}

function show() {
  if (!frame) { return; }
  showFrames();
  showFacts();
  showLabels();
  showClasses();
  showLayers();
  $('remove-ignored').hidden = !frame.boxes.some((box) => box.class === IGNORED);
  $('undo').disabled = !past.length;
  $('redo').disabled = !future.length;
  $('previous').disabled = frame.number === 0;
  $('next').disabled = frame.number + 1 >= list.frames.length;
  const row = $('frames').children[frame.number];
  row.scrollIntoView({ block: 'nearest' });
  draw();
}

// ---------------------------------------------------------------- start

const act = (id, action) => $(id).addEventListener('click', () => { canvas.focus(); action(); });
act('accept', () => decide('accepted'));
act('reject', () => decide('rejected'));
act('next', () => open(frame.number + 1));
act('previous', () => open(frame.number - 1));
act('undo', () => step(past, future));
act('redo', () => step(future, past));
act('remove-ignored', removeIgnored);
act('finish', finish);
act('retry', () => {
  if ($('retry').dataset.reload) { dirty = false; open(frame.number); } else if (dirty) { save(); } else { start(); }
});
window.addEventListener('beforeunload', (event) => { if (dirty && !finished) { event.preventDefault(); } });
window.addEventListener('pagehide', () => { if (dirty) { save(); } });
new ResizeObserver(() => { if (frame) { if (view.fitted) { fit(); } draw(); } }).observe($('view'));

async function start() {
  try {
    list = await call('GET', 'api/frames');
  } catch (error) { problem(error); return; }
  nextClass = list.classes[0];
  makeFrames();
  const wanted = Number(location.hash.slice(1)) - 1;
  const first = list.frames.findIndex((item) => item.status === 'open');
  await open(Number.isInteger(wanted) && list.frames[wanted] ? wanted : Math.max(first, 0));
  canvas.focus();
}

start();
