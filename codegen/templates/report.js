(function () {
  "use strict";
  var place = document.getElementById("find");
  if (!place) { return; }
  var label = document.createElement("label");
  label.htmlFor = "find-text";
  label.textContent = "Show only nodes whose name contains";
  var input = document.createElement("input");
  input.type = "search";
  input.id = "find-text";
  input.autocomplete = "off";
  var count = document.createElement("span");
  count.className = "soft";
  count.setAttribute("role", "status");
  place.append(label, input, count);
  var chapters = Array.prototype.map.call(document.querySelectorAll("details.chapter"), function (chapter) {
    var rows = Array.prototype.map.call(chapter.querySelectorAll("tbody tr"), function (row) {
      return { row: row, names: row.cells[0].textContent.toLowerCase() };
    });
    return { chapter: chapter, open: chapter.open, rows: rows };
  });
  function filter() {
    var wanted = input.value.trim().toLowerCase();
    var found = 0;
    chapters.forEach(function (entry) {
      var hits = 0;
      entry.rows.forEach(function (item) {
        var hit = item.names.indexOf(wanted) >= 0;
        item.row.hidden = !hit;
        hits += hit ? 1 : 0;
      });
      entry.chapter.hidden = hits === 0;
      entry.chapter.open = wanted ? hits > 0 : entry.open;
      found += hits;
    });
    count.textContent = wanted ? found + (found === 1 ? " row" : " rows") : "";
  }
  var pending = 0;
  input.addEventListener("input", function () {
    window.clearTimeout(pending);
    pending = window.setTimeout(filter, 120);
  });
})();
