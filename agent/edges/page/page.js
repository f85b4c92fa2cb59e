// Keeps the page fresh: fetches it again every two seconds and puts what became different in the place of what stood
// there. Parsing a document by XMLHttpRequest runs no script and needs no innerHTML, so the page can forbid both.
"use strict";

const EVERY_MS = 2000;
const PATIENCE_MS = 5000;
let timer;

function show(fresh) {
  document.getElementById("gone").hidden = fresh !== null;
  document.body.classList.toggle("old", fresh === null);
  if (fresh === null) return;
  document.title = fresh.title;
  for (const part of document.querySelectorAll("main > [id], #at")) {
    const now = fresh.getElementById(part.id);
    if (now && !part.isEqualNode(now)) part.replaceChildren(...now.childNodes);
  }
}

function refresh() {
  clearTimeout(timer);
  const selecting = document.getSelection().type === "Range"; // somebody copies a word
  if (document.hidden || selecting) return later();
  const request = new XMLHttpRequest();
  request.open("GET", "/");
  request.responseType = "document";
  request.timeout = PATIENCE_MS;
  request.onloadend = () => {
    show(request.status === 200 ? request.response : null);
    later();
  };
  request.send();
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(refresh, EVERY_MS);
}

document.addEventListener("visibilitychange", refresh);
later();
