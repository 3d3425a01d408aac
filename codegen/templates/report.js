(function () {
  "use strict";
  var SVG = "http://www.w3.org/2000/svg";
  var ZOOMS = [1, 1.5, 2, 3, 4, 6, 8, 12, 16];
  var MOST_LINKS = 60;
  var units = JSON.parse(document.getElementById("data").textContent).units;
  var lanes = document.getElementById("lanes");
  var panel = document.getElementById("panel");
  var links = document.getElementById("links");
  var after = units.map(function () { return []; });
  units.forEach(function (unit, number) { unit.p.forEach(function (before) { after[before].push(number); }); });
  var boxes = {};
  lanes.querySelectorAll("[data-u]").forEach(function (box) { boxes[box.dataset.u] = box; });
  var chapters = Array.prototype.map.call(document.querySelectorAll("details.chapter"), function (chapter) {
    return { chapter: chapter, open: chapter.open, rows: Array.prototype.slice.call(chapter.querySelectorAll("tr[data-u]")) };
  });
  var names = units.map(function (unit) { return unit.n.join("\n").toLowerCase(); });
  var chosen = -1;

  function byId(id) { return document.getElementById(id); }

  function element(tag, text, parent) {
    var made = document.createElement(tag);
    if (text) { made.textContent = text; }
    if (parent) { parent.append(made); }
    return made;
  }

  function time(value) {
    if (value === null) { return "none"; }
    if (value >= 1) { return value.toFixed(2) + " s"; }
    return value >= 1e-3 ? (value * 1e3).toFixed(2) + " ms" : (value * 1e6).toFixed(1) + " µs";
  }

  function title(unit) {
    return unit.o.filter(Boolean).join("+") || unit.n[0];
  }

  // Folds.

  function open(fold, wanted) {
    fold.setAttribute("aria-expanded", String(wanted));
    fold.nextElementSibling.hidden = !wanted;
  }

  function shown(number) {
    var box = boxes[number];
    if (!box) { return null; }
    var members = box.closest(".members");
    return members && members.hidden ? members.previousElementSibling : box;
  }

  // The chosen group.

  function choose(number) {
    chosen = number;
    var box = boxes[number];
    var members = box && box.closest(".members");
    if (members && members.hidden) { open(members.previousElementSibling, true); }
    describe(number);
    mark();
    return box;
  }

  function describe(number) {
    var unit = units[number];
    panel.replaceChildren();
    element("h3", title(unit), panel);
    var list = element("dl", "", panel);
    [
      ["Runs on", unit.d.toUpperCase() + (unit.s < 0 ? ", in no stage" : ", stage " + unit.s)],
      ["CPU", time(unit.c) + (unit.f[0] ? ", " + unit.f[0] : "")],
      ["GPU", time(unit.g) + (unit.f[1] ? ", " + unit.f[1] : "")],
      ["Why", unit.w]
    ].forEach(function (row) {
      element("dt", row[0], list);
      element("dd", row[1], list);
    });
    element("h4", unit.n.length === 1 ? "Node" : unit.n.length + " nodes", panel);
    var nodes = element("ul", "", panel);
    unit.n.forEach(function (name, place) {
      var item = element("li", "", nodes);
      element("span", name, item).className = "name";
      if (unit.o[place]) { element("span", " " + unit.o[place], item).className = "soft"; }
    });
    neighbours("Reads from", unit.p);
    neighbours("Read by", after[number]);
  }

  function neighbours(heading, numbers) {
    if (!numbers.length) { return; }
    element("h4", heading, panel);
    var list = element("ul", "", panel);
    numbers.slice(0, MOST_LINKS).forEach(function (number) {
      var unit = units[number];
      var button = element("button", title(unit) + " · " + unit.n[0], element("li", "", list));
      button.type = "button";
      button.addEventListener("click", function () {
        var box = choose(number);
        if (box) { box.focus(); }
      });
    });
    if (numbers.length > MOST_LINKS) { element("li", "and " + (numbers.length - MOST_LINKS) + " more", list); }
  }

  function mark() {
    lanes.querySelectorAll(".near, .chosen-box").forEach(function (box) { box.classList.remove("near", "chosen-box"); });
    links.replaceChildren();
    var here = chosen < 0 ? null : shown(chosen);
    if (!here) { return; }
    here.classList.add("chosen-box");
    var frame = lanes.getBoundingClientRect();
    var from = here.getBoundingClientRect();
    [[units[chosen].p, "in"], [after[chosen], "out"]].forEach(function (side) {
      side[0].slice(0, MOST_LINKS).forEach(function (number) {
        var box = shown(number);
        if (!box || box === here) { return; }
        box.classList.add("near");
        link(frame, side[1] === "in" ? box.getBoundingClientRect() : from, side[1] === "in" ? from : box.getBoundingClientRect(), side[1]);
      });
    });
  }

  function link(frame, from, to, kind) {
    var x1 = from.left + from.width / 2 - frame.left, y1 = from.bottom - frame.top;
    var x2 = to.left + to.width / 2 - frame.left, y2 = to.top - frame.top;
    if (Math.abs(from.top - to.top) < 4) { y2 = to.bottom - frame.top; }
    var bend = Math.max(18, Math.abs(y2 - y1) / 2);
    var path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    path.setAttribute("d", "M" + x1 + " " + y1 + "C" + x1 + " " + (y1 + bend) + " " + x2 + " " + (y2 + (y2 > y1 + 4 ? -bend : bend)) + " " + x2 + " " + y2);
    links.append(path);
  }

  // Search and filters.

  function wantedOf() {
    return {
      text: byId("find").value.trim().toLowerCase(),
      device: byId("by-device").value,
      op: byId("by-op").value,
      reason: byId("by-reason").value
    };
  }

  function fits(unit, number, wanted) {
    return (!wanted.text || names[number].indexOf(wanted.text) >= 0) &&
      (!wanted.device || unit.d === wanted.device) &&
      (!wanted.op || unit.o.indexOf(wanted.op) >= 0) &&
      (!wanted.reason || unit.r === Number(wanted.reason));
  }

  var matches = [];

  function filter() {
    var wanted = wantedOf();
    var all = !(wanted.text || wanted.device || wanted.op || wanted.reason);
    var hit = units.map(function (unit, number) { return all || fits(unit, number, wanted); });
    matches = all ? [] : units.map(function (_, number) { return number; }).filter(function (number) { return hit[number]; });
    Object.keys(boxes).forEach(function (number) { boxes[number].classList.toggle("off", !hit[number]); });
    lanes.querySelectorAll(".fold").forEach(function (fold) {
      var inside = fold.nextElementSibling.querySelectorAll("[data-u]");
      fold.classList.toggle("off", !Array.prototype.some.call(inside, function (box) { return hit[box.dataset.u]; }));
    });
    chapters.forEach(function (entry) {
      var count = 0;
      entry.rows.forEach(function (row) {
        row.hidden = !hit[row.dataset.u];
        count += row.hidden ? 0 : 1;
      });
      entry.chapter.hidden = count === 0;
      entry.chapter.open = wanted.text ? count > 0 && count < 400 : entry.open;
    });
    byId("hits").textContent = all ? "" : matches.length + " of " + units.length + " groups";
  }

  var pending = 0;
  byId("find").addEventListener("input", function () {
    window.clearTimeout(pending);
    pending = window.setTimeout(filter, 120);
  });
  byId("find").addEventListener("keydown", function (event) {
    if (event.key !== "Enter") { return; }
    event.preventDefault();
    filter();
    var next = matches.filter(function (number) { return boxes[number]; });
    if (next.length) {
      var box = choose(next[(next.indexOf(chosen) + 1) % next.length]);
      box.scrollIntoView({ block: "center" });
      mark();
    }
  });
  ["by-device", "by-op", "by-reason"].forEach(function (id) { byId(id).addEventListener("change", filter); });

  // Zoom.

  var level = 0;

  function zoom(by) {
    level = Math.min(ZOOMS.length - 1, Math.max(0, level + by));
    lanes.style.setProperty("--zoom", ZOOMS[level]);
    byId("zoom-now").textContent = ZOOMS[level] + "×";
    mark();
  }

  byId("zoom-in").addEventListener("click", function () { zoom(1); });
  byId("zoom-out").addEventListener("click", function () { zoom(-1); });

  lanes.addEventListener("click", function (event) {
    var box = event.target.closest(".box");
    if (!box) { return; }
    if (box.dataset.u !== undefined) { choose(Number(box.dataset.u)); } else {
      open(box, box.getAttribute("aria-expanded") !== "true");
      mark();
    }
  });
  lanes.addEventListener("keydown", function (event) {
    var step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "+" || event.key === "-") { zoom(event.key === "+" ? 1 : -1); }
    if (!step || !event.target.closest(".box")) { return; }
    var seen = Array.prototype.filter.call(lanes.querySelectorAll(".box"), function (box) { return box.offsetWidth > 0; });
    var next = seen[seen.indexOf(event.target) + step];
    if (next) { next.focus(); event.preventDefault(); }
  });
  var unfold = byId("unfold");
  if (unfold) {
    unfold.addEventListener("click", function () {
      var wanted = unfold.getAttribute("aria-pressed") !== "true";
      unfold.setAttribute("aria-pressed", String(wanted));
      lanes.querySelectorAll(".fold").forEach(function (fold) { open(fold, wanted); });
      mark();
    });
  }
  window.addEventListener("resize", mark);
  byId("tools").hidden = false;
})();
